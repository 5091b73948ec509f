"""The database schema, file by file: NNNN_what_it_does.sql and, beside it, its undo. A merged file is never edited."""
