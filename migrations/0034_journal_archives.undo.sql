DO $$
BEGIN
    IF EXISTS (SELECT FROM journal_archives) THEN
        RAISE EXCEPTION 'rows of journals are in files, which the version before does not read';
    END IF;
END
$$;
DROP TABLE journal_archives;
