-- Changelogs: topics that carry the full states of an entity.

CREATE SEQUENCE guest_context._source_seq AS integer;
COMMENT ON SEQUENCE guest_context._source_seq IS 'numbers of topics'' identities';

-- A topic's identity: grows only when an operator accepts that a topic is another one
-- than before. Outlives its changelogs, so that the order of versions does.
CREATE TABLE guest_context._source
(
	source		integer PRIMARY KEY DEFAULT pg_catalog.nextval('guest_context._source_seq'),
	server		text NOT NULL,
	topic		text NOT NULL,
	since		timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE guest_context._source IS 'identities of topics: what gc_source means';
CREATE INDEX _source_server_topic_idx ON guest_context._source (server, topic);

CREATE SEQUENCE guest_context._changelog_id_seq AS integer;
COMMENT ON SEQUENCE guest_context._changelog_id_seq IS 'numbers of changelogs';

CREATE TABLE guest_context._changelog
(
	changelog_id	integer PRIMARY KEY DEFAULT pg_catalog.nextval('guest_context._changelog_id_seq'),
	name			text NOT NULL UNIQUE,
	entity_id		integer NOT NULL,
	server			text NOT NULL,
	topic			text NOT NULL,
	envelope		text NOT NULL CHECK (envelope IN ('plain', 'debezium')),
	mapping			jsonb,				-- NULL = the entity's
	filter			jsonb,
	on_error		text NOT NULL CHECK (on_error IN ('dead_letter', 'halt')),
	start			text NOT NULL,		-- where partitions without a position begin
	source			integer NOT NULL,
	generation		integer NOT NULL DEFAULT 1,		-- counts seeks and accepted topics
	created_at		timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE guest_context._changelog IS 'one row per changelog: which topic of which server, for which entity, how to read it';
CREATE INDEX _changelog_entity_id_idx ON guest_context._changelog (entity_id);

-- Whether it runs, in this database. Not in dumps, and of no effect in a copy of the database:
-- there a changelog without a row that names the database is paused.
CREATE TABLE guest_context._changelog_state
(
	changelog_id	integer PRIMARY KEY,
	database		oid NOT NULL,
	paused			boolean NOT NULL DEFAULT false,
	halted			boolean NOT NULL DEFAULT false,
	waiting			boolean NOT NULL DEFAULT false,
	partition		integer,			-- what it halted or waits at
	record_offset	bigint,
	reason			text,
	hint			text,
	kind			text,				-- of a halt: what may end it
	worker			integer,			-- whose wait or halt it is, where there are several
	lost			bigint[],			-- offsets that are gone: partition, first, first that is there, that one's time; ...
	deletes_unproven_since timestamptz,	-- tombstones since then may have been compacted away before they were read
	changes			integer NOT NULL DEFAULT 0,		-- by verbs: the worker begins anew, however soon the next one comes
	since			timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE guest_context._changelog_state IS 'whether changelogs run in this database, and why not';

-- How far each partition has been read. Append-only: a row is written with the rows that it
-- is about, and only where the newest row ends at its from_offset, so of two
-- writers one fails. The first row of a partition begins at -1.
CREATE TABLE guest_context._ledger
(
	changelog_id	integer NOT NULL,
	generation		integer NOT NULL,
	partition		integer NOT NULL,
	from_offset		bigint NOT NULL,
	to_offset		bigint NOT NULL,	-- the next one to be read
	high			bigint,				-- end of the partition as it was then
	record_time		timestamptz,		-- of the last record
	rows			integer NOT NULL DEFAULT 0,
	dead			integer NOT NULL DEFAULT 0,
	at				timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	anchor_offset	bigint,				-- the last record that was read: where it is another one,
	anchor_time		timestamptz,		-- the topic is another one
	anchor_crc		bigint,
	PRIMARY KEY (changelog_id, generation, partition, from_offset)
);
COMMENT ON TABLE guest_context._ledger IS 'offsets, as committed with the rows; the newest row of a partition counts';

CREATE TABLE guest_context._gap
(
	changelog_id	integer NOT NULL,
	source			integer NOT NULL,
	partition		integer NOT NULL,
	from_offset		bigint NOT NULL,
	to_offset		bigint NOT NULL,	-- the first one behind it
	reason			text,
	role			text NOT NULL,
	at				timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE guest_context._gap IS 'offsets that an operator gave up: skipped, or lost upstream';
CREATE INDEX _gap_changelog_id_idx ON guest_context._gap (changelog_id);
ALTER TABLE guest_context._gap REPLICA IDENTITY FULL;	-- without a key its rows could not be deleted under a publication of all tables

CREATE SEQUENCE guest_context._dead_letter_id_seq;
COMMENT ON SEQUENCE guest_context._dead_letter_id_seq IS 'numbers of dead letters';

CREATE TABLE guest_context._dead_letter
(
	dead_letter_id	bigint PRIMARY KEY DEFAULT pg_catalog.nextval('guest_context._dead_letter_id_seq'),
	changelog_id	integer NOT NULL,
	source			integer NOT NULL,
	partition		integer NOT NULL,
	record_offset	bigint NOT NULL,
	record_time		timestamptz,
	key				bytea,
	value			bytea,
	headers			bytea[],			-- name, value, name, value, ...
	sqlstate		text NOT NULL,
	message			text NOT NULL,
	detail			text,
	at				timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	UNIQUE (changelog_id, source, partition, record_offset)
);
COMMENT ON TABLE guest_context._dead_letter IS 'change records that could not be applied, whole, with the reason';

ALTER SEQUENCE guest_context._source_seq OWNED BY guest_context._source.source;
ALTER SEQUENCE guest_context._changelog_id_seq OWNED BY guest_context._changelog.changelog_id;
ALTER SEQUENCE guest_context._dead_letter_id_seq OWNED BY guest_context._dead_letter.dead_letter_id;

SELECT pg_catalog.pg_extension_config_dump('guest_context._source', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._changelog', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._ledger', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._gap', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._source_seq', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._changelog_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._dead_letter_id_seq', '');

CREATE FUNCTION guest_context.create_changelog(
	entity regclass,
	server name,
	topic text,
	name text DEFAULT NULL,
	envelope text DEFAULT 'plain',
	mapping jsonb DEFAULT NULL,
	filter jsonb DEFAULT NULL,
	on_error text DEFAULT 'dead_letter',
	start text DEFAULT 'earliest')
	RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_create_changelog';
COMMENT ON FUNCTION guest_context.create_changelog(regclass, name, text, text, text, jsonb, jsonb, text, text)
	IS 'makes a topic''s records visible in an entity; returns the changelog''s name';

CREATE FUNCTION guest_context.alter_changelog(
	changelog text,
	mapping jsonb DEFAULT NULL,
	filter jsonb DEFAULT NULL,
	on_error text DEFAULT NULL,
	reset text[] DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_alter_changelog';
COMMENT ON FUNCTION guest_context.alter_changelog(text, jsonb, jsonb, text, text[])
	IS 'changes how a changelog is read from its next batch on (NULL = unchanged); reset: options back to their default';

CREATE FUNCTION guest_context.drop_changelog(changelog text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_drop_changelog';
COMMENT ON FUNCTION guest_context.drop_changelog(text) IS 'ends a changelog; its records stay';

CREATE FUNCTION guest_context.pause(changelog text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_pause';
COMMENT ON FUNCTION guest_context.pause(text) IS 'stops a changelog where it is';

CREATE FUNCTION guest_context.resume(changelog text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_resume';
COMMENT ON FUNCTION guest_context.resume(text) IS 'lets a changelog that is paused or halted go on where it stopped';

CREATE FUNCTION guest_context.seek(changelog text, target text) RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_seek';
COMMENT ON FUNCTION guest_context.seek(text, text)
	IS 'where a paused changelog goes on: earliest, latest, a timestamp, or 0:123,1:99; returns the old offsets';

CREATE FUNCTION guest_context.replay(changelog text, since timestamptz) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_replay';
COMMENT ON FUNCTION guest_context.replay(text, timestamptz)
	IS 'applies the topic''s records since a time again, up to where the changelog is; changes nothing where nothing is missing; returns how many; recorded in the audit';

CREATE FUNCTION guest_context.skip(changelog text, partition integer, through_offset bigint, reason text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_skip';
COMMENT ON FUNCTION guest_context.skip(text, integer, bigint, text)
	IS 'gives up the records of a partition up to this offset, of a changelog that is paused or halted, which then goes on; recorded in the audit';

CREATE FUNCTION guest_context.accept_data_loss(changelog text, partition integer, reason text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_accept_data_loss';
COMMENT ON FUNCTION guest_context.accept_data_loss(text, integer, text)
	IS 'lets a changelog go on that has halted because offsets of a partition (NULL: of all that it named) are gone; recorded in the audit';

CREATE FUNCTION guest_context.accept_topic(changelog text, reason text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_accept_topic';
COMMENT ON FUNCTION guest_context.accept_topic(text, text)
	IS 'lets a changelog go on that has halted because its topic is another one: from that one''s start; recorded in the audit';

CREATE FUNCTION guest_context.requeue(ids bigint[]) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_requeue';
COMMENT ON FUNCTION guest_context.requeue(bigint[])
	IS 'applies dead letters again, in their place in the order; returns how many; what still fails is an error';

CREATE FUNCTION guest_context.discard(ids bigint[]) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_discard';
COMMENT ON FUNCTION guest_context.discard(bigint[]) IS 'deletes dead letters for ever, which is recorded in the audit; returns how many';

-- What readers of an entity may know of its changelogs.
CREATE FUNCTION guest_context.offsets(entity regclass,
	OUT changelog text, OUT topic text, OUT partition integer, OUT next_offset bigint)
	RETURNS SETOF record
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'gc_offsets';
COMMENT ON FUNCTION guest_context.offsets(regclass) IS 'the next offset to be read of each partition, as committed with the rows';

CREATE FUNCTION guest_context.wait_for(entity regclass, topic text, partition integer, record_offset bigint,
	timeout interval DEFAULT '5 s') RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_wait_for';
COMMENT ON FUNCTION guest_context.wait_for(regclass, text, integer, bigint, interval)
	IS 'waits until the record of this offset can be read; false when the timeout is over';

CREATE FUNCTION guest_context.wait_for_head(entity regclass, timeout interval DEFAULT '30 s') RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'gc_wait_for_head';
COMMENT ON FUNCTION guest_context.wait_for_head(regclass, interval)
	IS 'waits until all can be read that is in the topics of the entity''s changelogs now; false when the timeout is over';

-- One row per changelog and partition: the newest row of the ledger. Found by the primary key
-- from partition to partition, so it does not matter how many rows there are.
CREATE VIEW guest_context._position AS
SELECT c.changelog_id, l.generation, l.partition, l.to_offset, l.high, l.record_time, l.at,
       l.anchor_offset, l.anchor_time, l.anchor_crc
FROM guest_context._changelog c,
     LATERAL (WITH RECURSIVE p (partition) AS (
                (SELECT f.partition FROM guest_context._ledger f
                 WHERE f.changelog_id OPERATOR(pg_catalog.=) c.changelog_id AND f.generation OPERATOR(pg_catalog.=) c.generation
                 ORDER BY f.partition LIMIT 1)
              UNION ALL
                SELECT (SELECT n.partition FROM guest_context._ledger n
                        WHERE n.changelog_id OPERATOR(pg_catalog.=) c.changelog_id AND n.generation OPERATOR(pg_catalog.=) c.generation
                          AND n.partition OPERATOR(pg_catalog.>) p.partition ORDER BY n.partition LIMIT 1)
                FROM p WHERE p.partition IS NOT NULL)
              SELECT p.partition FROM p WHERE p.partition IS NOT NULL) p,
     LATERAL (SELECT l.* FROM guest_context._ledger l
              WHERE l.changelog_id OPERATOR(pg_catalog.=) c.changelog_id AND l.generation OPERATOR(pg_catalog.=) c.generation
                AND l.partition OPERATOR(pg_catalog.=) p.partition
              ORDER BY l.from_offset DESC LIMIT 1) l;
COMMENT ON VIEW guest_context._position IS 'how far each partition of each changelog has been read';

CREATE VIEW guest_context.changelog AS
SELECT c.name AS changelog, e.view AS entity, c.server, c.topic, c.envelope, c.mapping, c.filter, c.on_error, c.start,
       c.source, c.generation, c.created_at
FROM guest_context._changelog c
JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
   OR pg_catalog.has_table_privilege(e.view, 'SELECT');
COMMENT ON VIEW guest_context.changelog IS 'one row per changelog: which topic of which server, for which entity, how it is read';
GRANT SELECT ON guest_context.changelog TO PUBLIC;

CREATE VIEW guest_context.gap AS
SELECT c.name AS changelog, s.topic, g.partition, g.from_offset, g.to_offset, g.reason, g.role, g.at
FROM guest_context._gap g
JOIN guest_context._changelog c ON c.changelog_id OPERATOR(pg_catalog.=) g.changelog_id
JOIN guest_context._source s ON s.source OPERATOR(pg_catalog.=) g.source
JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
   OR pg_catalog.has_table_privilege(e.view, 'SELECT');
COMMENT ON VIEW guest_context.gap IS 'offsets that were not read and never will be: who gave them up, and why';
GRANT SELECT ON guest_context.gap TO PUBLIC;

-- Payloads are personal data: only the entity's owner, and who has his rights, sees them.
CREATE VIEW guest_context.dead_letter WITH (security_barrier = true) AS
SELECT dl.dead_letter_id AS id, c.name AS changelog, e.view AS entity, c.topic, dl.partition, dl.record_offset, dl.record_time,
       dl.key, dl.value, dl.headers, dl.sqlstate, dl.message, dl.detail, dl.at
FROM guest_context._dead_letter dl
JOIN guest_context._changelog c ON c.changelog_id OPERATOR(pg_catalog.=) dl.changelog_id
JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) c.entity_id
JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) e.versions
WHERE pg_catalog.pg_has_role(t.relowner, 'USAGE');
COMMENT ON VIEW guest_context.dead_letter IS 'change records that could not be applied, whole, with the reason';
GRANT SELECT ON guest_context.dead_letter TO PUBLIC;
