/* Published values with their rounds, and attestations of meter readings. A round, and a provider's window, exists once
 * for ever; a feed's rounds and instants only grow. */
#include "oracle.h"
#include "governed.h"

enum { AHEAD_SECONDS_MAX = 60 };

static u64 initialize(const Input *input, const initialize_Accounts *at, const initialize_Bumps *bump,
                      const initialize_Args *args) {
    (void)args;
    TRY(check_authority(at->governance, at->authority));
    REQUIRE(is_vacant(at->oracle), AlreadyInitialized);
    CREATE(Oracle, oracle, at->oracle, at->authority, SEED("oracle"), SEED_OF(bump->oracle));
    oracle->bump = bump->oracle;
    return 0;
}

static u64 add_provider(const Input *input, const set_provider_Accounts *at, const set_provider_Bumps *bump) {
    CREATE(Provider, provider, at->provider, at->authority, SEED("provider"),
           SEED_OF(*key_of(at->authority_of_provider)), SEED_OF(bump->provider));
    provider->authority = *key_of(at->authority_of_provider);
    provider->bump = bump->provider;
    return 0;
}

static u64 set_provider(const Input *input, const set_provider_Accounts *at, const set_provider_Bumps *bump,
                        const set_provider_Args *args) {
    TRY(check_authority(at->governance, at->authority));
    LOAD(Oracle, oracle, at->oracle, input->program);
    if (is_vacant(at->provider)) TRY(add_provider(input, at, bump));
    LOAD(Provider, provider, at->provider, input->program);
    REQUIRE(provider->active != args->active, NothingToSet);
    provider->active = args->active;
    oracle->providers += args->active ? 1 : -1ul;
    EMIT(ProviderSet, .authority = provider->authority, .active = args->active);
    return 0;
}

static u64 open_feed(const Input *input, const publish_Accounts *at, const publish_Bumps *bump,
                     const publish_Args *args) {
    CREATE(Feed, feed, at->feed, at->publisher, SEED("feed"), SEED_OF(args->feed_id), SEED_OF(bump->feed));
    feed->feed_id = args->feed_id;
    feed->bump = bump->feed;
    return 0;
}

static u64 publish(const Input *input, const publish_Accounts *at, const publish_Bumps *bump,
                   const publish_Args *args) {
    CHECK_OPERATOR(publisher, at->governance, at->publisher);
    LOAD(Oracle, oracle, at->oracle, input->program);
    REQUIRE(is_vacant(at->round), RoundExists);
    REQUIRE(args->providers, NoProviders);
    REQUIRE(args->at <= seconds_now() + AHEAD_SECONDS_MAX, FutureInstant);
    u64 first = is_vacant(at->feed);
    if (first) TRY(open_feed(input, at, bump, args));
    LOAD(Feed, feed, at->feed, input->program);
    REQUIRE(first || args->number > feed->number, OldRound);
    REQUIRE(first || args->at >= feed->at, OldInstant);
    CREATE(Round, round, at->round, at->publisher, SEED("round"), SEED_OF(args->feed_id), SEED_OF(args->number),
           SEED_OF(bump->round));
    round->feed_id = args->feed_id;
    round->number = feed->number = args->number;
    round->value = feed->value = args->value;
    round->spread = feed->spread = args->spread;
    round->at = feed->at = args->at;
    round->providers = feed->providers = args->providers;
    round->slot = slot_now();
    round->bump = bump->round;
    oracle->rounds++;
    EMIT(PricePublished, .feed_id = args->feed_id, .number = args->number, .value = args->value,
         .spread = args->spread, .at = args->at, .providers = args->providers);
    return 0;
}

static u64 attest_readings(const Input *input, const attest_readings_Accounts *at, const attest_readings_Bumps *bump,
                           const attest_readings_Args *args) {
    const Config *config;
    TRY(load_config(at->governance, &config));
    REQUIRE(!config->paused, Paused);
    LOAD(Provider, provider, at->provider, input->program);
    REQUIRE(provider->active, ProviderInactive);
    REQUIRE(is_vacant(at->attestation), AlreadyAttested);
    CREATE(Attestation, attestation, at->attestation, at->signer, SEED("attestation"), SEED_OF(provider->authority),
           SEED_OF(args->window), SEED_OF(bump->attestation));
    attestation->provider = provider->authority;
    attestation->root = args->root;
    attestation->window = args->window;
    attestation->count = args->count;
    attestation->bump = bump->attestation;
    provider->attestations++;
    EMIT(ReadingsAttested, .provider = provider->authority, .root = args->root, .window = args->window,
         .count = args->count);
    return 0;
}
