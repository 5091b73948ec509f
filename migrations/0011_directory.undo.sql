-- People of the directory stay, without a password that anybody could know: they cannot log in any more.
ALTER TABLE users DROP COLUMN confirmed_us, DROP COLUMN directory_id, DROP COLUMN source;
