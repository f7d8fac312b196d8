-- Key filters of leaves in which no records arrive any more.

CREATE FUNCTION guest_context._key_filter_handler(internal) RETURNS index_am_handler
	LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gc_key_filter_handler';
COMMENT ON FUNCTION guest_context._key_filter_handler(internal) IS 'the index access method gc_key_filter';

CREATE ACCESS METHOD gc_key_filter TYPE INDEX HANDLER guest_context._key_filter_handler;
COMMENT ON ACCESS METHOD gc_key_filter IS 'says which keys a partition does not have; made by maintenance, asked by views of truth';

CREATE OPERATOR CLASS guest_context._key_filter_ops DEFAULT FOR TYPE anyelement USING gc_key_filter AS
	STORAGE anyelement;
COMMENT ON OPERATOR CLASS guest_context._key_filter_ops USING gc_key_filter IS 'keys of any type that can be hashed';
