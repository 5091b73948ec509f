-- Throws the API keys away.
DROP TRIGGER users_keep_an_admin_removed ON users;
DROP TRIGGER users_keep_an_admin_changed ON users;
DROP FUNCTION users_keep_an_admin();
DROP TABLE api_keys;
