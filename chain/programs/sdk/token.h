/* Calls of the SPL Token program, and what its accounts hold. The program id is checked by whoever passes it on: every
 * IDL names it as the account's only address. */
#pragma once
#include "solana.h"

static const Pubkey TOKEN_PROGRAM = {{6, 221, 246, 225, 215, 101, 161, 147, 217, 203, 225, 70, 206, 235, 121, 172,
                                      28, 180, 133, 237, 95, 91, 55, 145, 58, 140, 245, 133, 126, 255, 0, 169}};
#define MINT_LENGTH 82
#define TOKEN_ACCOUNT_LENGTH 165

INLINE int is_mint(Account a) { return key_equal(owner_of(a), &TOKEN_PROGRAM) && length_of(a) == MINT_LENGTH; }
INLINE u8 mint_decimals(Account mint) { return ((u8 *)data_of(mint))[44]; }

INLINE int holds_tokens(Account a) { /* of which mint: see token_mint */
    return key_equal(owner_of(a), &TOKEN_PROGRAM) && length_of(a) == TOKEN_ACCOUNT_LENGTH;
}
INLINE const Pubkey *token_mint(Account a) { return data_of(a); }
INLINE const Pubkey *token_owner(Account a) { return (const Pubkey *)((u8 *)data_of(a) + 32); }

/* One of the instructions "number, amount" over three accounts of which the third signs. */
OUTLINE u64 token_call(u8 number, u64 amount, const Account *three, const SignerSeeds *seeds) {
    u8 data[9] __attribute__((aligned(8)));
    data[0] = number;
    store64(data + 1, amount);
    Meta metas[3] = {{key_of(three[0]), 1, 0}, {key_of(three[1]), 1, 0}, {key_of(three[2]), 0, 1}};
    Instruction call = {&TOKEN_PROGRAM, metas, 3, data, sizeof data};
    AccountInfo infos[3] = {info_of(three[0]), info_of(three[1]), info_of(three[2])};
    return sol_invoke_signed_c(&call, infos, 3, seeds, seeds ? 1 : 0);
}

INLINE u64 token_transfer(Account from, Account to, Account authority, u64 amount, const SignerSeeds *seeds) {
    return token_call(3, amount, (Account[3]){from, to, authority}, seeds);
}
INLINE u64 token_mint_to(Account mint, Account to, Account authority, u64 amount, const SignerSeeds *seeds) {
    return token_call(7, amount, (Account[3]){mint, to, authority}, seeds);
}
INLINE u64 token_burn(Account from, Account mint, Account authority, u64 amount) {
    return token_call(8, amount, (Account[3]){from, mint, authority}, 0);
}

OUTLINE u64 token_initialize_mint(Account mint, const Pubkey *authority, u8 decimals) {
    u8 data[35] __attribute__((aligned(8)));
    data[0] = 20;
    data[1] = decimals;
    copy32(data + 2, authority);
    data[34] = 0; /* nobody can freeze */
    Meta metas[1] = {{key_of(mint), 1, 0}};
    Instruction call = {&TOKEN_PROGRAM, metas, 1, data, sizeof data};
    AccountInfo infos[1] = {info_of(mint)};
    return sol_invoke_signed_c(&call, infos, 1, 0, 0);
}

OUTLINE u64 token_initialize_account(Account account, Account mint, const Pubkey *owner) {
    u8 data[33] __attribute__((aligned(8)));
    data[0] = 18;
    copy32(data + 1, owner);
    Meta metas[2] = {{key_of(account), 1, 0}, {key_of(mint), 0, 0}};
    Instruction call = {&TOKEN_PROGRAM, metas, 2, data, sizeof data};
    AccountInfo infos[2] = {info_of(account), info_of(mint)};
    return sol_invoke_signed_c(&call, infos, 2, 0, 0);
}
