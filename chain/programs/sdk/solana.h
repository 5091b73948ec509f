/* What a Solana program in C sees: types, syscalls, accounts, calls of other programs. C17, no library.
 *
 * The loader hands over one buffer with all accounts and the instruction; `Account` points into it, and nothing is
 * copied. Calls of other programs must pass the pointers of that buffer: the runtime checks it. No function here keeps
 * more than a few hundred bytes on the stack, whose frames end at 4,096. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;
_Static_assert(sizeof(u64) == 8 && sizeof(void *) == 8, "a 64 bit target");

#define INLINE static inline __attribute__((always_inline, unused))
#define OUTLINE static __attribute__((noinline, unused)) /* a frame of its own */
#define PACKED __attribute__((packed, aligned(8))) /* borsh without gaps, first byte aligned */

typedef struct { u8 bytes[32]; } __attribute__((aligned(8))) Pubkey;
typedef struct { const void *start; u64 length; } Slice;

/* --- syscalls, bound by name when the program is loaded --- */

typedef struct { u64 slot; i64 epoch_start; u64 epoch, leader_epoch; i64 unix_seconds; } Clock;
typedef struct { u64 lamports_per_byte_year; u64 threshold_bits; u8 burn_percent; } Rent;
typedef struct { const Pubkey *key; u8 writable, signer; } Meta;
typedef struct { const Pubkey *program; const Meta *metas; u64 meta_count; const u8 *data; u64 length; } Instruction;
typedef struct {
    Pubkey *key; u64 *lamports; u64 length; u8 *data; Pubkey *owner; u64 rent_epoch; u8 signer, writable, executable;
} AccountInfo;
typedef struct { const Slice *seeds; u64 count; } SignerSeeds;

extern void sol_log_(const char *text, u64 length);
extern void sol_log_data(const Slice *slices, u64 count);
extern void sol_memcpy_(void *to, const void *from, u64 length);
extern u64 sol_create_program_address(const Slice *seeds, u64 count, const Pubkey *program, Pubkey *address);
extern u64 sol_try_find_program_address(const Slice *seeds, u64 count, const Pubkey *program, Pubkey *address, u8 *bump);
extern u64 sol_get_clock_sysvar(Clock *);
extern u64 sol_get_rent_sysvar(Rent *);
extern u64 sol_invoke_signed_c(const Instruction *, const AccountInfo *, u64 count, const SignerSeeds *, u64 signers);

#define LOG(text) sol_log_(text, sizeof(text) - 1)
#define SEED(text) ((Slice){text, sizeof(text) - 1})
#define SEED_OF(value) ((Slice){&(value), sizeof(value)})

/* --- results: 0, an error of our own (its number), or one of the runtime's (number << 32) --- */

#define NOT_ENOUGH_ACCOUNTS (11ul << 32)
#define TRY(call) do { u64 failed_ = (call); if (failed_) return failed_; } while (0)
#define REQUIRE(condition, Error) do { if (!(condition)) return fail_##Error(); } while (0)

/* --- memory: the virtual machine reads and writes words at any address --- */

INLINE u64 load64(const void *from) { return *(const u64 *)from; }
INLINE void store64(void *to, u64 value) { *(u64 *)to = value; }

INLINE int key_equal(const Pubkey *a, const Pubkey *b) {
    const u64 *x = (const u64 *)a, *y = (const u64 *)b;
    return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

INLINE int key_is_zero(const Pubkey *key) {
    const u64 *x = (const u64 *)key;
    return !(x[0] | x[1] | x[2] | x[3]);
}

INLINE void copy16(void *to, const void *from) {
    u64 *x = to; const u64 *y = from;
    x[0] = y[0]; x[1] = y[1];
}

INLINE void copy32(void *to, const void *from) {
    copy16(to, from);
    copy16((u8 *)to + 16, (const u8 *)from + 16);
}

INLINE int equal32(const void *a, const void *b) { return key_equal(a, b); }

/* --- accounts, as the loader serialized them --- */

typedef struct { u8 *base; } Account;

INLINE int is_signer(Account a) { return a.base[1]; }
INLINE int is_writable(Account a) { return a.base[2]; }
INLINE Pubkey *key_of(Account a) { return (Pubkey *)(a.base + 8); }
INLINE Pubkey *owner_of(Account a) { return (Pubkey *)(a.base + 40); }
INLINE u64 lamports_of(Account a) { return load64(a.base + 72); }
INLINE u64 length_of(Account a) { return load64(a.base + 80); }
INLINE void *data_of(Account a) { return a.base + 88; }

INLINE AccountInfo info_of(Account a) {
    return (AccountInfo){key_of(a), (u64 *)(a.base + 72), length_of(a), data_of(a), owner_of(a), 0,
                         a.base[1], a.base[2], a.base[3]};
}

#define ACCOUNTS_MAX 64 /* a transaction cannot lock more */
#define GROWTH_MAX 10240 /* room that the loader leaves behind each account */
#define REPEATED(marker) ((marker) != 0xff) /* else the index of the account that it repeats */

typedef struct {
    Account accounts[ACCOUNTS_MAX];
    u8 bumps[ACCOUNTS_MAX]; /* of those accounts that are program addresses */
    u64 count;
    u8 *data; /* of the instruction, 8-byte aligned */
    u64 length;
    const Pubkey *program;
} Input;

OUTLINE u64 read_input(u8 *at, Input *input) {
    u64 count = load64(at);
    at += 8;
    if (count > ACCOUNTS_MAX) return NOT_ENOUGH_ACCOUNTS;
    for (u64 i = 0; i < count; i++) {
        if (REPEATED(*at)) {
            input->accounts[i] = input->accounts[*at];
            at += 8;
        } else {
            input->accounts[i].base = at;
            at += 88 + load64(at + 80) + GROWTH_MAX;
            at = (u8 *)(((u64)at + 7) & ~7ul) + 8;
        }
    }
    input->count = count;
    input->length = load64(at);
    input->data = at + 8;
    input->program = (const Pubkey *)(input->data + input->length);
    return 0;
}

/* --- clock --- */

OUTLINE u64 slot_now(void) { Clock clock; sol_get_clock_sysvar(&clock); return clock.slot; }
OUTLINE i64 seconds_now(void) { Clock clock; sol_get_clock_sysvar(&clock); return clock.unix_seconds; }
