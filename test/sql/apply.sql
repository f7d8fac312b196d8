-- apply(): change records from SQL. The mapping grammar, what becomes of values, errors by their id, rights.
SET timezone = 'America/New_York';	-- nothing here may depend on it
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'iso_8601';
\set SHOW_CONTEXT never
CREATE ROLE regress_apply_owner LOGIN;
CREATE ROLE regress_apply_writer LOGIN;
CREATE SCHEMA apply AUTHORIZATION regress_apply_owner;
SET SESSION AUTHORIZATION regress_apply_owner;
SET search_path = apply;

-- the error of a record, without its context: SQLSTATE, message, detail, hint
CREATE FUNCTION attempt(entity regclass, payload text, deleted boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	RETURN guest_context.apply(entity, payload::json, deleted);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;

CREATE TABLE order_shape (
	ref         text,
	guest_ref   text,
	total       numeric,
	items       integer DEFAULT 1,
	tags        text[],
	grid        integer[],
	times       timestamptz[],
	docs        jsonb[],
	address     jsonb,
	raw         json,
	placed_on   date,
	local_time  timestamp,
	paid        boolean,
	rest        jsonb,
	modified_at timestamptz);
SELECT guest_context.create_entity('orders', 'order_shape', unmapped => 'rest');

--
-- What becomes of values
--

-- by default a field goes to the column of its name, else to that of its camelCase name; the rest is kept as it is spelled
SELECT guest_context.apply('orders', '{"ref": "1", "guestRef": "g", "total": 129.90, "items": 3, "tags": ["a", "b \"c\"", null, ""],
	"grid": [[1, 2], [3, 4]], "times": ["2026-01-01T00:00:00+02:00", 1700000000], "docs": [{"a": 1.0}, "x", 2],
	"address": {"city": "Köln", "zip": "50667", "n": 1.00}, "raw": {"b": 1,  "a": 1e2}, "placedOn": "2026-02-28",
	"localTime": "2026-02-28T12:00:00", "paid": true, "Extra": {"z": [1.50]}, "other": null, "modifiedAt": "2026-01-01T00:00:00.123456789Z"}');
\x on
SELECT ref, guest_ref, total, items, tags, grid, times[1] = '2025-12-31T22:00:00Z' AS time_1, times[2] = '2023-11-14T22:13:20Z' AS time_2,
	docs, address, raw, to_char(placed_on, 'YYYY-MM-DD') AS placed_on, to_char(local_time, 'YYYY-MM-DD HH24:MI') AS local_time, paid, rest,
	modified_at = '2026-01-01T00:00:00.123456Z' AS truncated
FROM orders WHERE ref = '1';
\x off
-- the exact column name goes before camelCase, the last of duplicate names wins (C6)
SELECT guest_context.apply('orders', '{"ref": "2", "guestRef": "camel", "guest_ref": "snake", "total": 1, "total": 2, "modified_at": "2026-01-01T00:00:00Z"}');
-- numbers keep every digit; a text takes numbers and booleans as they are spelled
SELECT guest_context.apply('orders', '[
	{"ref": 3, "guestRef": 1e2, "total": 12345678901234567890123456789012345678901234567890.123456789012345678901234567890, "modifiedAt": "2026-01-01T00:00:00Z"},
	{"ref": 4, "guestRef": true, "total": 1E+3, "modifiedAt": "2026-01-01T00:00:00Z"},
	{"ref": "5", "guestRef": {"a": [1]}, "total": "0.10", "modifiedAt": "2026-01-01T00:00:00Z"},
	{"ref": "6", "guestRef": "\u00e9\ud83d\ude00\t\"\\/", "total": -0.0, "modifiedAt": "2026-01-01T00:00:00Z"}]');
SELECT ref, guest_ref, total, items FROM orders WHERE ref <> '1' ORDER BY ref;
-- absent takes the DEFAULT, an explicit null is null, and every combination in one array finds its place
SELECT guest_context.apply('orders', '[
	{"ref": "1", "items": 7, "modifiedAt": "2026-01-02T00:00:00Z"},
	{"ref": "2", "modifiedAt": "2026-01-02T00:00:00Z"},
	{"ref": "3", "items": null, "modifiedAt": "2026-01-02T00:00:00Z"},
	{"ref": "4", "gc_deleted": true, "modifiedAt": "2026-01-02T00:00:00Z"},
	{"ref": "5", "modifiedAt": "2026-01-02T00:00:00Z"},
	{"ref": "6", "items": 8, "modifiedAt": "2026-01-02T00:00:00Z"}]');
SELECT ref, items FROM orders ORDER BY ref;
-- a record is a full state: what it does not say is gone
SELECT count(*) FROM orders WHERE guest_ref IS NOT NULL OR total IS NOT NULL OR rest IS NOT NULL;
-- text that COPY would take for its own
SELECT guest_context.apply('orders', '{"ref": "\\N", "guestRef": "\\.", "address": "a\tb\nc\rd\\e", "modifiedAt": "2026-01-01T00:00:00Z"}');
SELECT ref, guest_ref, address FROM orders WHERE ref = '\N';
-- the empty array of records, and a single element
SELECT guest_context.apply('orders', '[]') AS none, guest_context.apply('orders', '  [ {"ref":"8","modified_at":"2026-01-01T00:00:00Z"} ] ') AS one;
-- without `unmapped` the rest is dropped; a payload of nothing is none
SELECT guest_context.alter_entity('orders', reset => '{unmapped}');
SELECT guest_context.apply('orders', '{"ref": "8", "foo": 1, "rest": {"mine": 1}, "modified_at": "2026-01-02T00:00:00Z"}');
SELECT rest FROM orders WHERE ref = '8';
SELECT guest_context.apply('orders', NULL);

--
-- Times: s, ms, us by magnitude; ISO 8601 with a zone; truncated to microseconds (D2, D5)
--
CREATE TYPE tick_shape AS (ref text, at timestamptz);
SELECT guest_context.create_entity('ticks', 'tick_shape', version => 'at');
SELECT guest_context.apply('ticks', '[
	{"ref": "10 digits",          "at": 1490546579},
	{"ref": "13 digits",          "at": 1490546579250},
	{"ref": "16 digits",          "at": 1490546579250001},
	{"ref": "a number as text",   "at": "1490546579250"},
	{"ref": "a fraction",         "at": 1490546579.2500019},
	{"ref": "an exponent",        "at": 1.490546579e9},
	{"ref": "Z",                  "at": "2017-03-26T16:42:59.250Z"},
	{"ref": "an offset",          "at": "2017-03-26T18:42:59.25+02:00"},
	{"ref": "offset without :",   "at": "2017-03-26T22:12:59,25+0530"},
	{"ref": "a blank for the T",  "at": "2017-03-26 16:42:59.25Z"},
	{"ref": "no seconds",         "at": "2017-03-26T16:42Z"},
	{"ref": "nanoseconds as ISO", "at": "2017-03-26T16:42:59.250001999Z"}]');
SELECT ref, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') AS utc FROM ticks ORDER BY ref COLLATE "C";
-- declared units and zones; a declared unit is taken at its word, but for a version it must lie in a plausible time
SELECT guest_context.alter_entity('ticks', mapping => '{"at": {"path": "$.t", "unit": "s"}}');
SELECT attempt('ticks', '{"ref": "s", "t": 1490546579}');
SELECT attempt('ticks', '{"ref": "s", "t": 1490546579250}');
SELECT attempt('ticks', '{"ref": "s", "t": "2017-03-26T16:42:59Z"}');
SELECT guest_context.alter_entity('ticks', mapping => '{"at": {"path": "$.t", "unit": "us"}}');
SELECT attempt('ticks', '{"ref": "us", "t": 1490546579250001}');
SELECT guest_context.alter_entity('ticks', mapping => '{"at": {"path": "$.t", "unit": "iso8601", "zone": "+02:00"}}');
SELECT attempt('ticks', '{"ref": "zone", "t": "2017-03-26T18:42:59"}');
SELECT attempt('ticks', '{"ref": "zone", "t": 1490546579}');
SELECT ref, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') AS utc FROM ticks WHERE ref IN ('s', 'us', 'zone') ORDER BY ref;
SELECT guest_context.alter_entity('ticks', reset => '{mapping}');
-- D2: nanoseconds, and what fits no unit
SELECT attempt('ticks', '{"ref": "bad", "at": 1490546579250001000}');
SELECT attempt('ticks', '{"ref": "bad", "at": 20170326}');
SELECT attempt('ticks', '{"ref": "bad", "at": 0}');
SELECT attempt('ticks', '{"ref": "bad", "at": -1490546579}');
SELECT attempt('ticks', '{"ref": "bad", "at": true}');
SELECT attempt('ticks', '{"ref": "bad", "at": {}}');
-- D4: words and specials, other forms, days that are none
SELECT attempt('ticks', format('{"ref": "bad", "at": "%s"}', v)) FROM unnest('{now,tomorrow,infinity,-infinity,epoch,today,"",20170326,2017-03-26,
	26.03.2017 12:00Z,2017-02-30T00:00:00Z,2017-03-26T24:00:00Z,2016-12-31T23:59:60Z,0000-01-01T00:00:00Z,10000-01-01T00:00:00Z,
	2017-03-26T16:42:59 Europe/Berlin,2017-03-26T16:42:59 PST,2017-W12-7T00:00:00Z}'::text[]) v;
-- D5: no zone
SELECT attempt('ticks', '{"ref": "bad", "at": "2017-03-26T16:42:59"}');
-- D6: null, absent
SELECT attempt('ticks', '{"ref": "bad", "at": null}');
SELECT attempt('ticks', '{"ref": "bad"}');
-- D3: too far ahead; max_future_skew says how far
SELECT split_part(attempt('ticks', format('{"ref": "ahead", "at": "%s"}', to_char((clock_timestamp() + interval '1 year') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))), ' | ', 1);
SELECT split_part(attempt('ticks', format('{"ref": "ahead", "at": "%s"}', to_char((clock_timestamp() + interval '1 year') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))), ' | ', 2);
SELECT split_part(attempt('ticks', format('{"ref": "ahead", "at": "%s"}', to_char((clock_timestamp() + interval '4 min') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))), ' | ', 1);
-- a tombstone too
SELECT split_part(attempt('ticks', format('{"ref": "ahead", "at": "%s"}', to_char((clock_timestamp() + interval '1 year') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), true), ' | ', 1);
-- nobody but who may set it moves the limit
SET guest_context.max_future_skew = '1 d';
-- nothing bad was written
SELECT count(*) FROM ticks WHERE ref = 'bad';

--
-- Mapping
--
CREATE TYPE mapped_shape AS (tenant text, ref bigint, city text, first_item jsonb, whole jsonb, odd text, nothing text, modified_at timestamptz);
SELECT guest_context.create_entity('mapped', 'mapped_shape', key => '{tenant,ref}', mapping => '{
	"tenant": "$.meta.tenant", "ref": "$.id", "city": "$.address.city", "first_item": "$.items[0]", "whole": "$",
	"odd": "$.\"a.b\".\"c d\"", "nothing": null, "gc_deleted": "$.meta.gone",
	"modified_at": {"path": "$.meta.ts", "unit": "ms"}}');
SELECT guest_context.apply('mapped', '{"meta": {"tenant": "t", "ts": 1490546579250, "gone": false}, "id": 7, "address": {"city": "Ulm"},
	"items": [{"sku": 1}, {"sku": 2}], "a.b": {"c d": "found"}, "nothing": "not taken", "ref": 8, "gc_deleted": true}');
\x on
SELECT tenant, ref, city, first_item, whole -> 'id' AS whole_id, odd, nothing, modified_at = '2017-03-26T16:42:59.250Z' AS version FROM mapped;
\x off
-- a path that leads through something that is no object is absent
SELECT guest_context.apply('mapped', '{"meta": {"tenant": "t", "ts": 1490546579251}, "id": 7, "address": "none", "items": {}, "a.b": [1]}');
SELECT city, first_item, odd FROM mapped;
-- the mapped flag deletes, others are not looked at
SELECT guest_context.apply('mapped', '{"meta": {"tenant": "t", "ts": 1490546579252, "gone": "1"}, "id": 7}');
SELECT count(*) FROM mapped;
SELECT attempt('mapped', '{"meta": {"tenant": "t", "ts": 1490546579253, "gone": "maybe"}, "id": 7}');
-- apply() has no record key and no headers: what is mapped to them is missing; $timestamp is the clock
CREATE TYPE sourced_shape AS (ref text, header text, at timestamptz);
SELECT guest_context.create_entity('sourced', 'sourced_shape', version => 'at', mapping => '{"header": "$headers.h", "at": "$timestamp"}');
SELECT guest_context.apply('sourced', '{"ref": "1"}');
SELECT ref, header, at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now FROM sourced;
SELECT guest_context.alter_entity('sourced', mapping => '{"ref": "$key"}');
SELECT attempt('sourced', '{"ref": "1", "at": "2026-01-01T00:00:00Z"}');

--
-- Bad records (C1 to C9, C11, C15); all or none
--
-- C1: not JSON is refused by the type; C7: so are NaN and Infinity
SELECT attempt('orders', v) FROM unnest('{"","{","{\"ref\": NaN}","{\"ref\": Infinity}"}'::text[]) v;
SELECT attempt('orders', v) FROM unnest('{1,"\"text\"",null,true,"[1]","[[]]","[{}, 1]"}'::text[]) v;
-- C2, C3: what the type json lets through
SELECT attempt('orders', '{"ref": "a\u0000b", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "\ud800", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "ignored": "\udc00\ud800", "modified_at": "2026-01-01T00:00:00Z"}');
-- C4: deep nesting; 128 levels pass
SELECT attempt('orders', '{"ref": "deep", "modified_at": "2026-01-01T00:00:00Z", "address": ' || repeat('[', 127) || repeat(']', 127) || '}');
SELECT attempt('orders', '{"ref": "deep", "modified_at": "2026-01-01T00:00:00Z", "address": ' || repeat('[', 128) || repeat(']', 128) || '}');
SELECT attempt('orders', '{"ref": "deep", "modified_at": "2026-01-01T00:00:00Z", "ignored": ' || repeat('[', 1000) || repeat(']', 1000) || '}');
-- C5: number blow-up
SELECT attempt('orders', '{"ref": "1", "total": 1e131071, "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "total": 1e-2000, "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "total": ' || repeat('9', 1001) || ', "modified_at": "2026-01-01T00:00:00Z"}');
-- C8: no key
SELECT attempt('orders', '{"modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": null, "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"modified_at": "2026-01-01T00:00:00Z"}', true);
SELECT attempt('mapped', '{"meta": {"tenant": "t", "ts": 1490546579253}}');
-- C11: a field of another type
SELECT attempt('orders', '{"ref": "1", "items": "three", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "items": 1.5, "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "items": 3000000000, "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "tags": "a", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "tags": {"a": 1}, "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "grid": [[1], [2, 3]], "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "paid": "perhaps", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "placedOn": "28.02.2026", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "1", "placedOn": 19000, "modified_at": "2026-01-01T00:00:00Z"}');
-- what a source did not send
SELECT attempt('orders', '{"ref": "1", "guestRef": "__debezium_unavailable_value", "modified_at": "2026-01-01T00:00:00Z"}');
-- C15: a key that fits into no index
SELECT attempt('orders', '{"ref": "' || repeat('k', 2049) || '", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT attempt('orders', '{"ref": "' || (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 64) i) || '", "modified_at": "2026-01-01T00:00:00Z"}');
-- too large a value
SELECT attempt('orders', '{"ref": "1", "ignored": "' || repeat('x', 16 * 1024 * 1024) || '", "modified_at": "2026-01-01T00:00:00Z"}');
-- one bad record among good ones: none is written, wherever the error is found; the context says which it was
CREATE TEMP TABLE before AS SELECT count(*) AS n FROM orders_versions;
SELECT attempt('orders', '[{"ref": "good", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "bad"}]');
SELECT attempt('orders', '[{"ref": "good", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "bad", "items": "x", "modified_at": "2026-01-01T00:00:00Z"}]');
SELECT attempt('orders', '[{"ref": "good", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "bad", "items": 1, "gc_deleted": 7, "modified_at": "2026-01-01T00:00:00Z"}]');
\set SHOW_CONTEXT errors
SELECT guest_context.apply('orders', '[{"ref": "good", "modified_at": "2026-01-01T00:00:00Z"}, {"ref": "bad"}]');
\set SHOW_CONTEXT never
SELECT count(*) - (SELECT n FROM before) AS written FROM orders_versions;

--
-- Tombstones (C9)
--
-- with a version, without one (then the clock), by flag, by argument
SELECT guest_context.apply('ticks', '[{"ref": "a", "at": "2026-01-01T00:00:00Z"}, {"ref": "b", "at": "2026-01-01T00:00:00Z"},
	{"ref": "c", "at": "2026-01-01T00:00:00Z"}, {"ref": "d", "at": "2026-01-01T00:00:00Z"}, {"ref": "e", "at": "2026-01-01T00:00:00Z"}]');
SELECT guest_context.apply('ticks', '{"ref": "a", "at": "2026-01-01T00:00:01Z"}', deleted => true);
SELECT guest_context.apply('ticks', '{"ref": "b"}', deleted => true);
SELECT guest_context.apply('ticks', '{"ref": "c", "at": "2026-01-01T00:00:01Z", "gc_deleted": true}');
SELECT guest_context.apply('ticks', '{"ref": "d", "at": "2026-01-01T00:00:01Z", "__deleted": "true"}');
-- an older one deletes nothing
SELECT guest_context.apply('ticks', '{"ref": "e", "at": "2025-12-31T00:00:00Z"}', deleted => true);
SELECT ref FROM ticks WHERE ref IN ('a', 'b', 'c', 'd', 'e');
SELECT ref, at > '2026-01-02' AS by_the_clock FROM ticks_versions WHERE gc_deleted ORDER BY ref, at;
-- a tombstone of what never was: nothing, until an older record comes
SELECT guest_context.apply('ticks', '{"ref": "f", "at": "2026-01-03T00:00:00Z"}', deleted => true);
SELECT guest_context.apply('ticks', '{"ref": "f", "at": "2026-01-02T00:00:00Z"}');
SELECT count(*) FROM ticks WHERE ref = 'f';
SELECT guest_context.apply('ticks', '{"ref": "f", "at": "2026-01-04T00:00:00Z"}');
SELECT count(*) FROM ticks WHERE ref = 'f';

--
-- Equal versions: the one applied later wins (D1), delete and re-insert both ways (C10)
--
CREATE TYPE tie_shape AS (ref text, word text, modified_at timestamptz);
SELECT guest_context.create_entity('ties', 'tie_shape');
SELECT guest_context.apply('ties', '[
	{"ref": "two states",        "word": "first",  "modified_at": "2026-01-01T00:00:00Z"},
	{"ref": "two states",        "word": "second", "modified_at": "2026-01-01T00:00:00Z"},
	{"ref": "delete, re-insert", "gc_deleted": true, "modified_at": "2026-01-01T00:00:00Z"},
	{"ref": "delete, re-insert", "word": "alive",  "modified_at": "2026-01-01T00:00:00Z"},
	{"ref": "insert, delete",    "word": "dead",   "modified_at": "2026-01-01T00:00:00Z"},
	{"ref": "insert, delete",    "gc_deleted": true, "modified_at": "2026-01-01T00:00:00Z"}]');
SELECT ref, word FROM ties ORDER BY ref;
SELECT guest_context.apply('ties', '{"ref": "two states", "word": "third", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT guest_context.apply('ties', '{"ref": "delete, re-insert", "modified_at": "2026-01-01T00:00:00Z"}', deleted => true);
SELECT guest_context.apply('ties', '{"ref": "insert, delete", "word": "alive", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT ref, word FROM ties ORDER BY ref;

--
-- Transactions
--
-- visible to the statements that follow, gone with a rollback, and with a savepoint's
BEGIN;
SELECT guest_context.apply('ties', '{"ref": "tx", "word": "one", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT word FROM ties WHERE ref = 'tx';
SAVEPOINT s;
SELECT guest_context.apply('ties', '{"ref": "tx", "word": "two", "modified_at": "2026-01-02T00:00:00Z"}');
SELECT word FROM ties WHERE ref = 'tx';
ROLLBACK TO s;
SELECT word FROM ties WHERE ref = 'tx';
SELECT attempt('ties', '{"ref": "tx"}');
SELECT word FROM ties WHERE ref = 'tx';
ROLLBACK;
SELECT count(*) FROM ties WHERE ref = 'tx';
-- a prepared read sees it; the same statement does not
PREPARE read AS SELECT word FROM ties WHERE ref = $1;
EXECUTE read('tx');
SELECT guest_context.apply('ties', '{"ref": "tx", "word": "three", "modified_at": "2026-01-03T00:00:00Z"}'), (SELECT count(*) FROM ties WHERE ref = 'tx') AS before;
EXECUTE read('tx');
-- not in a read-only transaction
BEGIN READ ONLY;
SELECT guest_context.apply('ties', '{"ref": "tx", "word": "four", "modified_at": "2026-01-04T00:00:00Z"}');
ROLLBACK;
-- for each row of a query, and from a function
SELECT sum(guest_context.apply('ties', json_build_object('ref', 'row ' || i, 'word', i, 'modifiedAt', 1700000000 + i))) FROM generate_series(1, 100) i;
SELECT count(*) FROM ties WHERE ref LIKE 'row %';

-- the portable form says the same of all of it
CREATE FUNCTION differ(entity regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL TABLE %1$s)) d',
				   entity, guest_context.truth_sql(entity, true)) INTO n;
	RETURN n;
END $$;
SELECT differ('ties'), differ('ticks'), differ('mapped');

--
-- Rights (X13, X14)
--
-- INSERT on the view is what a writer needs
GRANT USAGE ON SCHEMA apply TO regress_apply_writer;
SET SESSION AUTHORIZATION regress_apply_writer;
SET search_path = apply;
SELECT guest_context.apply('ties', '{"ref": "w", "word": "denied", "modified_at": "2026-01-01T00:00:00Z"}');
SET SESSION AUTHORIZATION regress_apply_owner;
GRANT INSERT ON ties TO regress_apply_writer;
SET SESSION AUTHORIZATION regress_apply_writer;
SELECT guest_context.apply('ties', '{"ref": "w", "word": "written", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT word FROM ties WHERE ref = 'w';
SET SESSION AUTHORIZATION regress_apply_owner;
SELECT word FROM ties WHERE ref = 'w';
-- row security: COPY could not check it, so nobody writes under it but the owner
ALTER TABLE ties_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON ties_versions USING (true);
SET SESSION AUTHORIZATION regress_apply_writer;
SELECT guest_context.apply('ties', '{"ref": "w", "word": "policy", "modified_at": "2026-01-02T00:00:00Z"}');
SET SESSION AUTHORIZATION regress_apply_owner;
SELECT guest_context.apply('ties', '{"ref": "w", "word": "owner", "modified_at": "2026-01-02T00:00:00Z"}');
SELECT word FROM ties WHERE ref = 'w';
ALTER TABLE ties_versions DISABLE ROW LEVEL SECURITY;
-- what the owner put into defaults and checks runs as the owner, security-restricted, whoever writes
CREATE FUNCTION who() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN current_user || ' in ' || current_setting('search_path');
END $$;
CREATE TABLE who_shape (ref text, who text DEFAULT apply.who(), modified_at timestamptz);
SELECT guest_context.create_entity('whos', 'who_shape');
GRANT INSERT ON whos TO regress_apply_writer;
GRANT SELECT ON whos TO regress_apply_writer;
SET SESSION AUTHORIZATION regress_apply_writer;
SELECT guest_context.apply('whos', '{"ref": "1", "modified_at": "2026-01-01T00:00:00Z"}');
SELECT who FROM whos;
SELECT current_user, current_setting('search_path');
RESET SESSION AUTHORIZATION;
SELECT guest_context.apply('apply.whos', '{"ref": "1", "modified_at": "2026-01-02T00:00:00Z"}');
SELECT who FROM apply.whos;
-- the view itself is not for writing
SET SESSION AUTHORIZATION regress_apply_owner;
INSERT INTO ties VALUES ('1', 'x', '2026-01-01');
UPDATE ties SET word = 'x';
DELETE FROM ties;
TRUNCATE ties;

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA apply CASCADE;
DROP OWNED BY regress_apply_owner;
DROP ROLE regress_apply_owner, regress_apply_writer;
