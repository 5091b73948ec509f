-- Why: values from outside the exchange: feeds, who provides them, what they said last, and the rounds made of it.
-- Locks: none that matter, every table is new.

-- The name is the feed's id on the chain. value, spread, round, at_us: what was published last.
CREATE TABLE oracle_feeds (
    feed text PRIMARY KEY CHECK (feed ~ '^[a-z][a-z0-9_]{0,15}$'),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    unit text NOT NULL CHECK (length(unit) BETWEEN 1 AND 30),
    decimals smallint NOT NULL CHECK (decimals BETWEEN 0 AND 9),
    single_provider boolean NOT NULL,
    round_seconds integer NOT NULL CHECK (round_seconds BETWEEN 10 AND 86400), -- numbers the rounds: never changed
    source text NOT NULL CHECK (source IN ('providers', 'trades')),
    closed_round bigint NOT NULL DEFAULT 0, -- the last one that ended, whatever it came to
    value bigint,
    spread bigint CHECK (spread >= 0),
    round bigint,
    at_us bigint,
    CHECK (num_nulls(value, spread, round, at_us) IN (0, 4))
) WITH (fillfactor = 70);

CREATE TABLE oracle_providers (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider_id uuid NOT NULL CONSTRAINT oracle_providers_id_key UNIQUE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    public_key bytea NOT NULL CONSTRAINT oracle_providers_public_key UNIQUE CHECK (octet_length(public_key) = 32),
    feeds text[] NOT NULL,
    active boolean NOT NULL DEFAULT true,
    created_us bigint NOT NULL
);

-- The newest of each provider and feed. history: a bit per round that it took part in, set for an outlier.
CREATE TABLE oracle_submissions (
    feed text NOT NULL REFERENCES oracle_feeds,
    provider bigint NOT NULL REFERENCES oracle_providers,
    value bigint NOT NULL,
    observed_us bigint NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    received_us bigint NOT NULL,
    history integer NOT NULL DEFAULT 0,
    PRIMARY KEY (feed, provider)
) WITH (fillfactor = 70);

-- Rounds in which somebody took part. The primary key is the rule that a round is closed once.
CREATE TABLE oracle_rounds (
    feed text NOT NULL REFERENCES oracle_feeds,
    round bigint NOT NULL CHECK (round > 0),
    at_us bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('published', 'below_quorum')),
    value bigint,
    spread bigint,
    quorum smallint NOT NULL CHECK (quorum >= 1),
    heard jsonb NOT NULL, -- what each provider said, with its signature
    PRIMARY KEY (feed, round),
    CHECK ((status = 'published') = (value IS NOT NULL AND spread IS NOT NULL))
);

INSERT INTO oracle_feeds (feed, name, unit, decimals, single_provider, round_seconds, source)
VALUES
    ('retail_price', 'Retail price of the grid', 'currency/kWh', 6, false, 300, 'providers'),
    ('feed_in_price', 'Feed-in price of the grid', 'currency/kWh', 6, false, 300, 'providers'),
    ('emission_factor', 'Emissions of the grid', 'g/kWh', 3, false, 300, 'providers'),
    ('market_vwap', 'Price between neighbours, last hour', 'currency/kWh', 6, true, 300, 'trades');
