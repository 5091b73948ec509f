DROP TABLE oracle_rounds;
DROP TABLE oracle_submissions;
DROP TABLE oracle_providers;
DROP TABLE oracle_feeds;
