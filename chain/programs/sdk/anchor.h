/* Anchor's wire format: 8 bytes tell what an account, instruction or event is; errors are logged before they return.
 * What differs between programs is generated from their IDLs, see build.py: types with their discriminators, `fail_`
 * functions, and the dispatcher, which checks signers, writable accounts, fixed addresses and seeds before it calls. */
#pragma once
#include "solana.h"
#include "system.h"

#define FAILURE(Name, number, message)                                                                       \
    OUTLINE u64 fail_##Name(void) {                                                                          \
        LOG("AnchorError occurred. Error Code: " #Name ". Error Number: " #number ". Error Message: " message "."); \
        return number;                                                                                       \
    }

FAILURE(InstructionFallbackNotFound, 101, "Fallback functions are not supported")
FAILURE(InstructionDidNotDeserialize, 102, "The program could not deserialize the given instruction")
FAILURE(ConstraintMut, 2000, "A mut constraint was violated")
FAILURE(ConstraintSeeds, 2006, "A seeds constraint was violated")
FAILURE(ConstraintAddress, 2012, "An address constraint was violated")
FAILURE(AccountDiscriminatorMismatch, 3002, "Account discriminator did not match what was expected")
FAILURE(AccountNotEnoughKeys, 3005, "Not enough account keys given to the instruction")
FAILURE(AccountOwnedByWrongProgram, 3007, "The given account is owned by a different program than expected")
FAILURE(AccountNotSigner, 3010, "The given account did not sign")

/* What an IDL says of an account; address is 0 where none is fixed, bump that of a fixed program address. */
typedef struct { u8 signer, writable, bump; const Pubkey *address; } Rule;

OUTLINE u64 check_rules(Input *input, const Rule *rules, u64 count) {
    REQUIRE(input->count >= count, AccountNotEnoughKeys);
    for (u64 i = 0; i < count; i++) {
        Account account = input->accounts[i];
        if (rules[i].signer) REQUIRE(is_signer(account), AccountNotSigner);
        if (rules[i].writable) REQUIRE(is_writable(account), ConstraintMut);
        if (rules[i].address) {
            u64 same = key_equal(key_of(account), rules[i].address);
            if (!same) return rules[i].bump ? fail_ConstraintSeeds() : fail_ConstraintAddress();
        }
        input->bumps[i] = rules[i].bump;
    }
    return 0;
}

OUTLINE u64 check_seeds(Input *input, u64 index, const Slice *seeds, u64 count) {
    Pubkey address;
    u64 failed = sol_try_find_program_address(seeds, count, input->program, &address, &input->bumps[index]);
    REQUIRE(!failed && key_equal(&address, key_of(input->accounts[index])), ConstraintSeeds);
    return 0;
}

/* The account's data as a Type of the program `owner`. */
OUTLINE u64 check_account(Account a, const Pubkey *owner, u64 discriminator, u64 length) {
    REQUIRE(key_equal(owner_of(a), owner), AccountOwnedByWrongProgram);
    REQUIRE(length_of(a) == length && load64(data_of(a)) == discriminator, AccountDiscriminatorMismatch);
    return 0;
}
#define LOAD(Type, name, account, owner)                                               \
    TRY(check_account(account, owner, DISCRIMINATOR_##Type, LENGTH_##Type));           \
    Type *name = data_of(account)

/* A new account of this program at a program address, its discriminator written. */
#define CREATE(Type, name, account, payer, ...)                                                      \
    const Slice name##_seeds[] = {__VA_ARGS__};                                                      \
    const SignerSeeds name##_signer = {name##_seeds, sizeof name##_seeds / sizeof *name##_seeds};    \
    TRY(create_account(payer, account, LENGTH_##Type, input->program, &name##_signer));              \
    Type *name = data_of(account);                                                                   \
    name->discriminator = DISCRIMINATOR_##Type

#define EMIT(Type, ...)                                                                        \
    do {                                                                                       \
        Type event_ = {.discriminator = DISCRIMINATOR_##Type, __VA_ARGS__};                    \
        Slice slice_ = {&event_, LENGTH_##Type};                                               \
        sol_log_data(&slice_, 1);                                                              \
    } while (0)
