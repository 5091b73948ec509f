/* One token is one kWh, its base unit one Wh. A meter's window is minted once for ever: the record of it cannot be
 * created twice. Energy that is retired is burnt, with what it was retired for in the event. */
#include "energy_token.h"
#include "governed.h"
#include "token.h"

enum { DECIMALS = 3, METER_ACTIVE = 1, MINT_LIMIT = 0 /* governance's parameter */ };

static u64 initialize(const Input *input, const initialize_Accounts *at, const initialize_Bumps *bump,
                      const initialize_Args *args) {
    (void)args;
    TRY(check_authority(at->governance, at->authority));
    REQUIRE(is_vacant(at->mint_config), AlreadyInitialized);
    const Slice mint_seeds[] = {SEED("mint"), SEED_OF(bump->mint)};
    const SignerSeeds mint_signer = {mint_seeds, 2};
    TRY(create_account(at->authority, at->mint, MINT_LENGTH, &TOKEN_PROGRAM, &mint_signer));
    TRY(token_initialize_mint(at->mint, key_of(at->mint_authority), DECIMALS));
    CREATE(MintConfig, config, at->mint_config, at->authority, SEED("mint_config"), SEED_OF(bump->mint_config));
    config->mint = *key_of(at->mint);
    config->bump = bump->mint_config;
    config->mint_authority_bump = bump->mint_authority;
    return 0;
}

/* The meter owner's own token account, or one of his vault at the trading program. */
static u64 check_destination(Account destination, const MintConfig *config, const Pubkey *owner) {
    REQUIRE(holds_tokens(destination) && key_equal(token_mint(destination), &config->mint), WrongMint);
    if (key_equal(token_owner(destination), owner)) return 0;
    const Slice seeds[] = {SEED("vault"), SEED_OF(*owner)};
    Pubkey vault;
    u8 bump;
    u64 failed = sol_try_find_program_address(seeds, 2, &PROGRAM_trading, &vault, &bump);
    REQUIRE(!failed && key_equal(token_owner(destination), &vault), WrongDestination);
    return 0;
}

static u64 mint_generation(const Input *input, const mint_generation_Accounts *at, const mint_generation_Bumps *bump,
                           const mint_generation_Args *args) {
    CHECK_OPERATOR(minter, at->governance, at->minter);
    const Config *governance = data_of(at->governance);
    LOAD(MintConfig, config, at->mint_config, input->program);
    LOAD(Meter, meter, at->meter, &PROGRAM_registry);
    u64 limit = governance->parameters[MINT_LIMIT], minted;
    REQUIRE(!config->paused, Paused);
    REQUIRE(is_vacant(at->record), AlreadyMinted);
    REQUIRE(args->amount, ZeroAmount);
    REQUIRE(!limit || args->amount <= limit, AboveLimit);
    REQUIRE(meter->status == METER_ACTIVE, MeterInactive);
    REQUIRE(!__builtin_add_overflow(config->minted, args->amount, &minted), Overflow);
    TRY(check_destination(at->destination, config, &meter->owner));

    CREATE(GenerationRecord, record, at->record, at->minter, SEED("generation"), SEED_OF(*key_of(at->meter)),
           SEED_OF(args->window), SEED_OF(bump->record));
    record->meter = *key_of(at->meter);
    record->destination = *key_of(at->destination);
    record->window = args->window;
    record->amount = args->amount;
    record->slot = slot_now();
    record->bump = bump->record;
    config->minted = minted;

    const Slice seeds[] = {SEED("mint_authority"), SEED_OF(bump->mint_authority)};
    const SignerSeeds signer = {seeds, 2};
    TRY(token_mint_to(at->mint, at->destination, at->mint_authority, args->amount, &signer));
    EMIT(GenerationMinted, .meter = record->meter, .owner = meter->owner, .destination = record->destination,
         .window = record->window, .amount = record->amount, .minted = minted);
    return 0;
}

static u64 retire(const Input *input, const retire_Accounts *at, const retire_Bumps *bump, const retire_Args *args) {
    (void)bump;
    LOAD(MintConfig, config, at->mint_config, input->program);
    REQUIRE(args->amount, ZeroAmount);
    REQUIRE(holds_tokens(at->source) && key_equal(token_mint(at->source), &config->mint), WrongMint);
    TRY(token_burn(at->source, at->mint, at->owner, args->amount)); /* refuses who may not, and more than there is */
    config->retired += args->amount;
    EMIT(EnergyRetired, .owner = *key_of(at->owner), .reference = args->reference, .amount = args->amount,
         .retired = config->retired);
    return 0;
}

static u64 pause(const Input *input, const pause_Accounts *at, const pause_Bumps *bump, const pause_Args *args) {
    (void)bump, (void)args;
    TRY(check_authority(at->governance, at->authority));
    LOAD(MintConfig, config, at->mint_config, input->program);
    REQUIRE(!config->paused, Paused);
    config->paused = 1;
    EMIT(MintingPaused, .authority = *key_of(at->authority));
    return 0;
}

static u64 thaw(const Input *input, const thaw_Accounts *at, const thaw_Bumps *bump, const thaw_Args *args) {
    (void)bump, (void)args;
    TRY(check_authority(at->governance, at->authority));
    LOAD(MintConfig, config, at->mint_config, input->program);
    REQUIRE(config->paused, NotPaused);
    config->paused = 0;
    EMIT(MintingThawed, .authority = *key_of(at->authority));
    return 0;
}
