/* What a program asks governance: may this key act in this role, and is the exchange paused? The account's address is
 * fixed by the IDL, so that only governance can have written it. Included after a program's own header. */
#pragma once

static u64 load_config(Account governance, const Config **config) {
    LOAD(Config, found, governance, &PROGRAM_governance);
    *config = found;
    return 0;
}

OUTLINE u64 check_authority(Account governance, Account signer) {
    const Config *config;
    TRY(load_config(governance, &config));
    REQUIRE(key_equal(&config->authority, key_of(signer)), Unauthorized);
    return 0;
}

/* In this order: who may not is told so, paused or not. */
#define CHECK_OPERATOR(role, governance, signer)                                  \
    do {                                                                          \
        const Config *config_;                                                    \
        TRY(load_config(governance, &config_));                                   \
        REQUIRE(key_equal(&config_->role, key_of(signer)), Unauthorized);         \
        REQUIRE(!config_->paused, Paused);                                        \
    } while (0)
