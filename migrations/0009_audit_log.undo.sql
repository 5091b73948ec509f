-- Throws the audit log away.
DROP FUNCTION audit_append(text, text, text, text, text, text, json, json);
DROP FUNCTION audit_field(text);
DROP FUNCTION audit_make_partition(bigint);
DROP TABLE audit_log;
DROP FUNCTION audit_partition(bigint);
DROP TABLE audit_head;
DROP FUNCTION audit_refuse();
