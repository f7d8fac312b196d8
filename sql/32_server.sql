-- Where records come from: servers and user mappings of PostgreSQL itself. Nobody
-- but a superuser may make a server until USAGE on the wrapper is granted: who
-- may name hosts and ports can look around in the network of the database server.

CREATE FUNCTION guest_context._options_validator(text[], oid) RETURNS void
	LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gc_options_validator';
COMMENT ON FUNCTION guest_context._options_validator(text[], oid) IS 'checks the options of servers and user mappings';

CREATE FOREIGN DATA WRAPPER guest_context VALIDATOR guest_context._options_validator;
COMMENT ON FOREIGN DATA WRAPPER guest_context IS 'servers that change records are read from: Kafka, or files with TYPE ''file''';

CREATE FUNCTION guest_context.check_server(server name, timeout interval DEFAULT '10 s')
	RETURNS TABLE (step text, ok boolean, detail text)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 5 AS 'MODULE_PATHNAME', 'gc_check_server';
COMMENT ON FUNCTION guest_context.check_server(name, interval)
	IS 'connects to a server as the caller would, and says how far that went';

CREATE FUNCTION guest_context.topics(server name, timeout interval DEFAULT '10 s')
	RETURNS TABLE (topic text, partitions integer, low bigint, high bigint)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'gc_topics';
COMMENT ON FUNCTION guest_context.topics(name, interval)
	IS 'the topics of a server, with the sums of their partitions'' first and next offsets';

CREATE FUNCTION guest_context.peek(server name, topic text, n integer DEFAULT 10, timeout interval DEFAULT '10 s')
	RETURNS TABLE (partition integer, record_offset bigint, ts timestamptz, key text, value text)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'gc_peek';
COMMENT ON FUNCTION guest_context.peek(name, text, integer, interval)
	IS 'the newest records of a topic, without consuming anything';
