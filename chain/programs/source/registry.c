/* Who takes part and which meters are whose. A serial number's hash is taken once for ever: its meter changes hands, but
 * is never registered again. */
#include "registry.h"
#include "governed.h"

enum { ACTIVE = 1, SUSPENDED = 2 };

static u64 initialize(const Input *input, const initialize_Accounts *at, const initialize_Bumps *bump,
                      const initialize_Args *args) {
    (void)args;
    TRY(check_authority(at->governance, at->authority));
    REQUIRE(is_vacant(at->registry), AlreadyInitialized);
    CREATE(Registry, registry, at->registry, at->authority, SEED("registry"), SEED_OF(bump->registry));
    registry->bump = bump->registry;
    return 0;
}

static u64 register_user(const Input *input, const register_user_Accounts *at, const register_user_Bumps *bump,
                         const register_user_Args *args) {
    CHECK_OPERATOR(registrar, at->governance, at->registrar);
    LOAD(Registry, registry, at->registry, input->program);
    REQUIRE(is_vacant(at->user), UserExists);
    CREATE(User, user, at->user, at->registrar, SEED("user"), SEED_OF(*key_of(at->authority)), SEED_OF(bump->user));
    user->authority = *key_of(at->authority);
    user->user_id = args->user_id;
    user->registered_at = seconds_now();
    user->status = ACTIVE;
    user->bump = bump->user;
    registry->users++;
    EMIT(UserRegistered, .user = *key_of(at->user), .authority = user->authority, .user_id = user->user_id);
    return 0;
}

static u64 update_user(const Input *input, const update_user_Accounts *at, const update_user_Bumps *bump,
                       const update_user_Args *args) {
    (void)bump;
    CHECK_OPERATOR(registrar, at->governance, at->registrar);
    LOAD(User, user, at->user, input->program);
    REQUIRE(args->status == ACTIVE || args->status == SUSPENDED, UnknownStatus);
    EMIT(UserUpdated, .user = *key_of(at->user), .before = user->status, .status = args->status);
    user->status = args->status;
    return 0;
}

static u64 register_meter(const Input *input, const register_meter_Accounts *at, const register_meter_Bumps *bump,
                          const register_meter_Args *args) {
    CHECK_OPERATOR(registrar, at->governance, at->registrar);
    LOAD(Registry, registry, at->registry, input->program);
    LOAD(User, user, at->user, input->program);
    REQUIRE(user->status == ACTIVE, UserInactive);
    REQUIRE(is_vacant(at->meter), MeterExists);
    CREATE(Meter, meter, at->meter, at->registrar, SEED("meter"), SEED_OF(args->serial_hash), SEED_OF(bump->meter));
    meter->owner = user->authority;
    meter->serial_hash = args->serial_hash;
    meter->registered_at = seconds_now();
    meter->status = ACTIVE;
    meter->bump = bump->meter;
    registry->meters++;
    EMIT(MeterRegistered, .meter = *key_of(at->meter), .owner = meter->owner, .serial_hash = meter->serial_hash);
    return 0;
}

static u64 set_meter_status(const Input *input, const set_meter_status_Accounts *at,
                            const set_meter_status_Bumps *bump, const set_meter_status_Args *args) {
    (void)bump;
    CHECK_OPERATOR(registrar, at->governance, at->registrar);
    LOAD(Meter, meter, at->meter, input->program);
    REQUIRE(args->status == ACTIVE || args->status == SUSPENDED, UnknownStatus);
    EMIT(MeterStatusSet, .meter = *key_of(at->meter), .before = meter->status, .status = args->status);
    meter->status = args->status;
    return 0;
}

static u64 transfer_meter(const Input *input, const transfer_meter_Accounts *at, const transfer_meter_Bumps *bump,
                          const transfer_meter_Args *args) {
    (void)bump, (void)args;
    const Config *config;
    TRY(load_config(at->governance, &config));
    LOAD(Meter, meter, at->meter, input->program);
    LOAD(User, receiver, at->receiver, input->program);
    const Pubkey *signer = key_of(at->signer);
    REQUIRE(key_equal(signer, &meter->owner) || key_equal(signer, &config->registrar), Unauthorized);
    REQUIRE(!config->paused, Paused);
    REQUIRE(meter->status == ACTIVE, MeterInactive);
    REQUIRE(receiver->status == ACTIVE, UserInactive);
    REQUIRE(!key_equal(&meter->owner, &receiver->authority), SameOwner);
    EMIT(MeterTransferred, .meter = *key_of(at->meter), .sender = meter->owner, .receiver = receiver->authority);
    meter->owner = receiver->authority;
    return 0;
}
