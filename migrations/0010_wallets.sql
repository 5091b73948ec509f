-- Why: Solana addresses of people: linked ones, proven by a signature, and platform ones, whose secret we keep sealed.
-- Locks: new tables only; their foreign keys take SHARE ROW EXCLUSIVE on users for a moment: logins wait for it.

-- The primary key is the rule that an address belongs to one person.
CREATE TABLE wallets (
    address text PRIMARY KEY CHECK (length(address) BETWEEN 32 AND 44),
    user_id bigint NOT NULL REFERENCES users,
    kind text NOT NULL CHECK (kind IN ('linked', 'platform')),
    is_primary boolean NOT NULL,
    created_us bigint NOT NULL,
    -- AES-256-GCM of the 32 bytes of seed, under the master key of this version
    key_version integer CHECK (key_version > 0),
    nonce bytea CHECK (length(nonce) = 12),
    sealed bytea CHECK (length(sealed) = 48),
    CHECK ((kind = 'platform') = (key_version IS NOT NULL AND nonce IS NOT NULL AND sealed IS NOT NULL)),
    CHECK ((kind = 'linked') = (key_version IS NULL AND nonce IS NULL AND sealed IS NULL))
);
CREATE INDEX wallets_user ON wallets (user_id);
CREATE UNIQUE INDEX wallets_primary ON wallets (user_id) WHERE is_primary;
CREATE UNIQUE INDEX wallets_platform ON wallets (user_id) WHERE kind = 'platform';

-- What somebody was asked to sign: one text per person and address, used up by the first signature that fits.
CREATE TABLE wallet_challenges (
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    address text NOT NULL CHECK (length(address) BETWEEN 32 AND 44),
    challenge text NOT NULL CHECK (length(challenge) <= 1000),
    expires_us bigint NOT NULL,
    PRIMARY KEY (user_id, address)
);
CREATE INDEX wallet_challenges_expiry ON wallet_challenges (expires_us);
