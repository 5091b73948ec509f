DROP TABLE market_paths;
DROP TABLE markets;
DROP TABLE capacities;
DROP TABLE costs;
DROP TABLE zones;
