-- Where records come from: servers and user mappings of PostgreSQL itself. Nobody
-- but a superuser may make a server until USAGE on the wrapper is granted: who
-- may name hosts and ports can look around in the network of the database server.

CREATE FUNCTION guest_context._options_validator(text[], oid) RETURNS void
	LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gc_options_validator';
COMMENT ON FUNCTION guest_context._options_validator(text[], oid) IS 'checks the options of servers and user mappings';

CREATE FOREIGN DATA WRAPPER guest_context VALIDATOR guest_context._options_validator;
COMMENT ON FOREIGN DATA WRAPPER guest_context IS 'servers that change records are read from: Kafka, or files with TYPE ''file''';
