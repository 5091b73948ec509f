/* New accounts. Whoever sends lamports to a future address must not be able to keep it from coming into being: an
 * address that has some is filled up, allocated and assigned instead of created. */
#pragma once
#include "solana.h"

static const Pubkey SYSTEM_PROGRAM = {{0}};
#define ACCOUNT_OVERHEAD 128 /* bytes that rent counts beside the data */
#define YEARS_EXEMPT 2 /* on every cluster */

INLINE int is_vacant(Account a) { return key_equal(owner_of(a), &SYSTEM_PROGRAM) && length_of(a) == 0; }

OUTLINE u64 rent_exempt(u64 length) {
    Rent rent;
    sol_get_rent_sysvar(&rent);
    return (ACCOUNT_OVERHEAD + length) * rent.lamports_per_byte_year * YEARS_EXEMPT;
}

OUTLINE u64 system_fund(Account payer, Account created, u64 lamports) {
    u8 data[12] __attribute__((aligned(8)));
    *(u32 *)data = 2;
    store64(data + 4, lamports);
    Meta metas[2] = {{key_of(payer), 1, 1}, {key_of(created), 1, 0}};
    Instruction call = {&SYSTEM_PROGRAM, metas, 2, data, sizeof data};
    AccountInfo infos[2] = {info_of(payer), info_of(created)};
    return sol_invoke_signed_c(&call, infos, 2, 0, 0);
}

OUTLINE u64 system_allocate(Account created, u64 length, const SignerSeeds *seeds) {
    u8 data[12] __attribute__((aligned(8)));
    *(u32 *)data = 8;
    store64(data + 4, length);
    Meta metas[1] = {{key_of(created), 1, 1}};
    Instruction call = {&SYSTEM_PROGRAM, metas, 1, data, sizeof data};
    AccountInfo infos[1] = {info_of(created)};
    return sol_invoke_signed_c(&call, infos, 1, seeds, 1);
}

OUTLINE u64 system_assign(Account created, const Pubkey *owner, const SignerSeeds *seeds) {
    u8 data[36] __attribute__((aligned(8)));
    *(u32 *)data = 1;
    copy32(data + 4, owner);
    Meta metas[1] = {{key_of(created), 1, 1}};
    Instruction call = {&SYSTEM_PROGRAM, metas, 1, data, sizeof data};
    AccountInfo infos[1] = {info_of(created)};
    return sol_invoke_signed_c(&call, infos, 1, seeds, 1);
}

/* At a program address of this program, whose seeds with the bump are given. The payer signs. */
OUTLINE u64 create_account(Account payer, Account created, u64 length, const Pubkey *owner, const SignerSeeds *seeds) {
    u64 lamports = rent_exempt(length), has = lamports_of(created);
    if (has) {
        if (has < lamports) TRY(system_fund(payer, created, lamports - has));
        TRY(system_allocate(created, length, seeds));
        return system_assign(created, owner, seeds);
    }
    u8 data[52] __attribute__((aligned(8)));
    *(u32 *)data = 0;
    store64(data + 4, lamports);
    store64(data + 12, length);
    copy32(data + 20, owner);
    Meta metas[2] = {{key_of(payer), 1, 1}, {key_of(created), 1, 1}};
    Instruction call = {&SYSTEM_PROGRAM, metas, 2, data, sizeof data};
    AccountInfo infos[2] = {info_of(payer), info_of(created)};
    return sol_invoke_signed_c(&call, infos, 2, seeds, 1);
}
