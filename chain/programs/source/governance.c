/* Who may do what, which limits hold, and whether the exchange is paused. The other programs read Config and decide. */
#include "governance.h"

enum { PARAMETERS = 8, ROLES = 4 };

static u64 load_as_authority(const Input *input, Account config, Account authority) {
    LOAD(Config, state, config, input->program);
    REQUIRE(key_equal(&state->authority, key_of(authority)), Unauthorized);
    return 0;
}

static u64 initialize(const Input *input, const initialize_Accounts *at, const initialize_Bumps *bump,
                      const initialize_Args *args) {
    REQUIRE(is_vacant(at->config), AlreadyInitialized);
    CREATE(Config, config, at->config, at->authority, SEED("config"), SEED_OF(bump->config));
    config->authority = *key_of(at->authority);
    config->minter = args->minter;
    config->settler = args->settler;
    config->publisher = args->publisher;
    config->registrar = args->registrar;
    config->bump = bump->config;
    EMIT(AuthorityChanged, .authority = config->authority);
    return 0;
}

static u64 set_parameter(const Input *input, const set_parameter_Accounts *at, const set_parameter_Bumps *bump,
                         const set_parameter_Args *args) {
    (void)bump;
    TRY(load_as_authority(input, at->config, at->authority));
    Config *config = data_of(at->config);
    REQUIRE(args->index < PARAMETERS, UnknownParameter);
    EMIT(ParameterSet, .before = config->parameters[args->index], .value = args->value, .index = args->index);
    config->parameters[args->index] = args->value;
    return 0;
}

static u64 set_operator(const Input *input, const set_operator_Accounts *at, const set_operator_Bumps *bump,
                        const set_operator_Args *args) {
    (void)bump;
    TRY(load_as_authority(input, at->config, at->authority));
    Config *config = data_of(at->config);
    REQUIRE(args->role < ROLES, UnknownRole);
    Pubkey *const operators[ROLES] = {&config->minter, &config->settler, &config->publisher, &config->registrar};
    Pubkey *operator = operators[args->role];
    EMIT(OperatorSet, .before = *operator, .operator = args->operator, .role = args->role);
    *operator = args->operator;
    return 0;
}

static u64 pause(const Input *input, const pause_Accounts *at, const pause_Bumps *bump, const pause_Args *args) {
    (void)bump, (void)args;
    TRY(load_as_authority(input, at->config, at->authority));
    Config *config = data_of(at->config);
    REQUIRE(!config->paused, AlreadyPaused);
    config->paused = 1;
    EMIT(Paused, .authority = config->authority);
    return 0;
}

static u64 unpause(const Input *input, const unpause_Accounts *at, const unpause_Bumps *bump,
                   const unpause_Args *args) {
    (void)bump, (void)args;
    TRY(load_as_authority(input, at->config, at->authority));
    Config *config = data_of(at->config);
    REQUIRE(config->paused, NotPaused);
    config->paused = 0;
    EMIT(Unpaused, .authority = config->authority);
    return 0;
}

static u64 propose_authority(const Input *input, const propose_authority_Accounts *at,
                             const propose_authority_Bumps *bump, const propose_authority_Args *args) {
    (void)bump;
    TRY(load_as_authority(input, at->config, at->authority));
    REQUIRE(!key_is_zero(&args->proposed), ZeroKey);
    Config *config = data_of(at->config);
    config->proposed = args->proposed;
    EMIT(AuthorityProposed, .authority = config->authority, .proposed = config->proposed);
    return 0;
}

static u64 accept_authority(const Input *input, const accept_authority_Accounts *at,
                            const accept_authority_Bumps *bump, const accept_authority_Args *args) {
    (void)bump, (void)args;
    LOAD(Config, config, at->config, input->program);
    REQUIRE(!key_is_zero(&config->proposed), NothingProposed);
    REQUIRE(key_equal(&config->proposed, key_of(at->proposed)), Unauthorized);
    EMIT(AuthorityChanged, .before = config->authority, .authority = config->proposed);
    config->authority = config->proposed;
    config->proposed = (Pubkey){{0}};
    return 0;
}
