/* Vaults of energy and currency, and the settlements that move tokens between them.
 *
 * A settlement is larger than a transaction, so it comes in parts. Each part is done once: a bit in the settlement's
 * account says so. What a part takes out of vaults goes to the pools and is noted as held; what it pays into vaults is
 * taken from what this settlement holds, never from another's. The last part must leave nothing held. So no order of
 * parts, no repetition and no mistake of the settler can create or lose a token. */
#include "trading.h"
#include "governed.h"
#include "token.h"

enum { ENERGY = 0, CURRENCY = 1, ENERGY_DECIMALS = 3, CURRENCY_DECIMALS = 6 };
enum { OPEN = 1, COMPLETE = 2, CANCELLED = 3 };
enum { ACCOUNTS_PER_DELTA = 3 };

static u64 create_token_account(Account payer, Account account, Account mint, const Pubkey *owner,
                                const SignerSeeds *seeds) {
    TRY(create_account(payer, account, TOKEN_ACCOUNT_LENGTH, &TOKEN_PROGRAM, seeds));
    return token_initialize_account(account, mint, owner);
}

static u64 initialize(const Input *input, const initialize_Accounts *at, const initialize_Bumps *bump,
                      const initialize_Args *args) {
    (void)args;
    TRY(check_authority(at->governance, at->authority));
    REQUIRE(is_vacant(at->market), AlreadyInitialized);
    REQUIRE(is_mint(at->energy_mint) && is_mint(at->currency_mint), WrongMint);
    REQUIRE(!key_equal(key_of(at->energy_mint), key_of(at->currency_mint)), SameMint);
    REQUIRE(mint_decimals(at->energy_mint) == ENERGY_DECIMALS, WrongDecimals);
    REQUIRE(mint_decimals(at->currency_mint) == CURRENCY_DECIMALS, WrongDecimals);
    CREATE(Market, market, at->market, at->authority, SEED("market"), SEED_OF(bump->market));
    market->energy_mint = *key_of(at->energy_mint);
    market->currency_mint = *key_of(at->currency_mint);
    market->bump = bump->market;
    market->energy_pool_bump = bump->energy_pool;
    market->currency_pool_bump = bump->currency_pool;
    const Slice energy[] = {SEED("energy_pool"), SEED_OF(bump->energy_pool)};
    const Slice currency[] = {SEED("currency_pool"), SEED_OF(bump->currency_pool)};
    const Pubkey *owner = key_of(at->market);
    TRY(create_token_account(at->authority, at->energy_pool, at->energy_mint, owner, &(SignerSeeds){energy, 2}));
    return create_token_account(at->authority, at->currency_pool, at->currency_mint, owner,
                                &(SignerSeeds){currency, 2});
}

static u64 create_vault(const Input *input, const create_vault_Accounts *at, const create_vault_Bumps *bump,
                        const create_vault_Args *args) {
    (void)args;
    LOAD(Market, market, at->market, input->program);
    REQUIRE(is_vacant(at->vault), VaultExists);
    REQUIRE(key_equal(key_of(at->energy_mint), &market->energy_mint), WrongMint);
    REQUIRE(key_equal(key_of(at->currency_mint), &market->currency_mint), WrongMint);
    CREATE(Vault, vault, at->vault, at->payer, SEED("vault"), SEED_OF(*key_of(at->participant)),
           SEED_OF(bump->vault));
    vault->participant = *key_of(at->participant);
    vault->energy = *key_of(at->energy);
    vault->currency = *key_of(at->currency);
    vault->bump = bump->vault;
    const Pubkey *owner = key_of(at->vault);
    const Slice energy[] = {SEED("energy"), SEED_OF(*owner), SEED_OF(bump->energy)};
    const Slice currency[] = {SEED("currency"), SEED_OF(*owner), SEED_OF(bump->currency)};
    TRY(create_token_account(at->payer, at->energy, at->energy_mint, owner, &(SignerSeeds){energy, 3}));
    TRY(create_token_account(at->payer, at->currency, at->currency_mint, owner, &(SignerSeeds){currency, 3}));
    EMIT(VaultCreated, .vault = *owner, .participant = vault->participant);
    return 0;
}

/* `holding` is the vault's account of the asset, `outside` a token account of the same mint. */
static u64 check_asset(const Market *market, const Vault *vault, u8 asset, Account holding, Account outside) {
    REQUIRE(asset == ENERGY || asset == CURRENCY, UnknownAsset);
    const Pubkey *mint = asset == ENERGY ? &market->energy_mint : &market->currency_mint;
    const Pubkey *own = asset == ENERGY ? &vault->energy : &vault->currency;
    REQUIRE(key_equal(key_of(holding), own), WrongHolding);
    REQUIRE(holds_tokens(outside) && key_equal(token_mint(outside), mint), WrongMint);
    return 0;
}

static u64 deposit(const Input *input, const deposit_Accounts *at, const deposit_Bumps *bump,
                   const deposit_Args *args) {
    (void)bump;
    LOAD(Market, market, at->market, input->program);
    LOAD(Vault, vault, at->vault, input->program);
    REQUIRE(args->amount, ZeroAmount);
    TRY(check_asset(market, vault, args->asset, at->holding, at->source));
    REQUIRE(!key_equal(key_of(at->holding), key_of(at->source)), WrongHolding); /* to itself it would move nothing */
    TRY(token_transfer(at->source, at->holding, at->owner, args->amount, 0));
    EMIT(Deposited, .vault = *key_of(at->vault), .participant = vault->participant, .owner = *key_of(at->owner),
         .amount = args->amount, .asset = args->asset);
    return 0;
}

static u64 withdraw(const Input *input, const withdraw_Accounts *at, const withdraw_Bumps *bump,
                    const withdraw_Args *args) {
    CHECK_OPERATOR(settler, at->governance, at->settler);
    LOAD(Market, market, at->market, input->program);
    LOAD(Vault, vault, at->vault, input->program);
    REQUIRE(is_vacant(at->withdrawal), AlreadyWithdrawn);
    REQUIRE(args->amount, ZeroAmount);
    TRY(check_asset(market, vault, args->asset, at->holding, at->destination));
    REQUIRE(!key_equal(key_of(at->holding), key_of(at->destination)), WrongHolding);
    CREATE(Withdrawal, withdrawal, at->withdrawal, at->settler, SEED("withdrawal"), SEED_OF(args->id),
           SEED_OF(bump->withdrawal));
    withdrawal->id = args->id;
    withdrawal->vault = *key_of(at->vault);
    withdrawal->destination = *key_of(at->destination);
    withdrawal->amount = args->amount;
    withdrawal->slot = slot_now();
    withdrawal->asset = args->asset;
    withdrawal->bump = bump->withdrawal;
    const Slice seeds[] = {SEED("vault"), SEED_OF(vault->participant), SEED_OF(vault->bump)};
    const SignerSeeds signer = {seeds, 3};
    TRY(token_transfer(at->holding, at->destination, at->vault, args->amount, &signer));
    EMIT(Withdrawn, .id = args->id, .vault = withdrawal->vault, .destination = withdrawal->destination,
         .amount = args->amount, .asset = args->asset);
    return 0;
}

/* --- settle_batch --- */

static u64 open_settlement(const Input *input, const settle_batch_Accounts *at, const settle_batch_Bumps *bump,
                           const settle_batch_Args *args) {
    CREATE(Settlement, settlement, at->settlement, at->settler, SEED("settlement"), SEED_OF(args->id),
           SEED_OF(bump->settlement));
    settlement->id = args->id;
    settlement->root = args->root;
    settlement->count = args->count;
    settlement->parts = args->parts;
    settlement->status = OPEN;
    settlement->bump = bump->settlement;
    return 0;
}

static u64 mark_part(Settlement *settlement, const settle_batch_Args *args) {
    REQUIRE(settlement->status != CANCELLED, Cancelled);
    int same = equal32(&settlement->root, &args->root) && settlement->count == args->count;
    REQUIRE(same && settlement->parts == args->parts, OtherSettlement);
    u64 bit = 1ul << (args->part & 63), *word = &settlement->done[args->part >> 6];
    REQUIRE(!(*word & bit), AlreadySettled);
    *word |= bit;
    settlement->parts_done++;
    return 0;
}

typedef struct { Account vault, energy, currency; } Party;
typedef struct { Account vault, holding, pool, market; u64 *held, *moved; } Leg; /* one asset of one party */

/* What is below zero goes from the vault to the pool. */
static u64 pay_in(const Leg *leg, i64 delta) {
    if (delta >= 0) return 0;
    u64 amount = -(u64)delta;
    const Vault *vault = data_of(leg->vault);
    const Slice seeds[] = {SEED("vault"), SEED_OF(vault->participant), SEED_OF(vault->bump)};
    const SignerSeeds signer = {seeds, 3};
    REQUIRE(!__builtin_add_overflow(*leg->held, amount, leg->held), Overflow);
    REQUIRE(!__builtin_add_overflow(*leg->moved, amount, leg->moved), Overflow);
    return token_transfer(leg->holding, leg->pool, leg->vault, amount, &signer);
}

/* What is above zero goes from the pool to the vault. */
static u64 pay_out(const Leg *leg, i64 delta) {
    if (delta <= 0) return 0;
    REQUIRE((u64)delta <= *leg->held, NotPaidIn);
    *leg->held -= (u64)delta;
    const Market *market = data_of(leg->market);
    const Slice seeds[] = {SEED("market"), SEED_OF(market->bump)};
    const SignerSeeds signer = {seeds, 2};
    return token_transfer(leg->pool, leg->holding, leg->market, (u64)delta, &signer);
}

static u64 move_both(const settle_batch_Accounts *at, const Party *party, const u8 *delta, int out) {
    Settlement *settlement = data_of(at->settlement);
    const Leg energy = {party->vault, party->energy, at->energy_pool, at->market, &settlement->energy_held,
                        &settlement->energy_moved};
    const Leg currency = {party->vault, party->currency, at->currency_pool, at->market, &settlement->currency_held,
                          &settlement->currency_moved};
    i64 energy_delta = (i64)load64(delta), currency_delta = (i64)load64(delta + 8);
    TRY(out ? pay_out(&energy, energy_delta) : pay_in(&energy, energy_delta));
    return out ? pay_out(&currency, currency_delta) : pay_in(&currency, currency_delta);
}

static u64 check_party(const Input *input, const Party *party) {
    LOAD(Vault, vault, party->vault, input->program);
    REQUIRE(key_equal(&vault->energy, key_of(party->energy)), WrongHolding);
    REQUIRE(key_equal(&vault->currency, key_of(party->currency)), WrongHolding);
    return 0;
}

static u64 settle_batch(const Input *input, const settle_batch_Accounts *at, const settle_batch_Bumps *bump,
                        const settle_batch_Args *args) {
    CHECK_OPERATOR(settler, at->governance, at->settler);
    LOAD(Market, market, at->market, input->program);
    REQUIRE(args->part < args->parts, BadPart);
    REQUIRE(args->deltas_count, NoDeltas);
    u64 fixed = sizeof *at / sizeof(Account);
    REQUIRE(input->count == fixed + ACCOUNTS_PER_DELTA * (u64)args->deltas_count, WrongAccounts);
    if (is_vacant(at->settlement)) TRY(open_settlement(input, at, bump, args));
    LOAD(Settlement, settlement, at->settlement, input->program);
    TRY(mark_part(settlement, args));

    const Party *parties = (const Party *)(input->accounts + fixed);
    u64 energy = settlement->energy_moved, currency = settlement->currency_moved;
    for (u64 i = 0; i < args->deltas_count; i++) TRY(check_party(input, &parties[i]));
    for (int out = 0; out <= 1; out++) /* everybody pays in before anybody is paid */
        for (u64 i = 0; i < args->deltas_count; i++)
            TRY(move_both(at, &parties[i], args->deltas + i * LENGTH_Delta, out));

    u8 complete = settlement->parts_done == settlement->parts;
    if (complete) {
        REQUIRE(!settlement->energy_held && !settlement->currency_held, Unbalanced);
        settlement->status = COMPLETE;
        market->settlements++;
        market->energy_settled += settlement->energy_moved;
        market->currency_settled += settlement->currency_moved;
    }
    EMIT(Settled, .id = args->id, .root = args->root, .energy = settlement->energy_moved - energy,
         .currency = settlement->currency_moved - currency, .count = args->count, .part = args->part,
         .parts = args->parts, .complete = complete);
    return 0;
}

static u64 cancel_settlement(const Input *input, const cancel_settlement_Accounts *at,
                             const cancel_settlement_Bumps *bump, const cancel_settlement_Args *args) {
    CHECK_OPERATOR(settler, at->governance, at->settler);
    REQUIRE(is_vacant(at->settlement), AlreadySettled);
    CREATE(Settlement, settlement, at->settlement, at->settler, SEED("settlement"), SEED_OF(args->id),
           SEED_OF(bump->settlement));
    settlement->id = args->id;
    settlement->status = CANCELLED;
    settlement->bump = bump->settlement;
    EMIT(SettlementCancelled, .id = args->id);
    return 0;
}
