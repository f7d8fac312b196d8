-- Keys of every sort of type: equality is the type's own, also where equal values have different bytes. For each type
-- three values are put into speed and batch in changing order, 1 and 2 equal, 3 different, and the view must
-- agree with its portable form, by map, by filter and by index; the winner must be found by any spelling.
SET timezone = 'UTC';
SET jit = off;
CREATE ROLE regress_keys_owner LOGIN;
CREATE SCHEMA key_types AUTHORIZATION regress_keys_owner;
CREATE COLLATION key_types.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION key_types.numbers (provider = icu, locale = 'und-u-kn');
SET SESSION AUTHORIZATION regress_keys_owner;
SET search_path = key_types;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN code AS text CHECK (VALUE <> '');
CREATE DOMAIN cents AS numeric;
CREATE TYPE pair AS (n numeric, t text);

CREATE FUNCTION try(type text, one text, two text, three text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	past text;
	difference text;
	same boolean;
	ok boolean;
	result text;
	ds bigint;
	n bigint;
	winner text;
BEGIN
	EXECUTE format('SELECT (%1$L::%3$s)%4$s = (%2$L::%3$s)%4$s', one, two, regexp_replace(type, ' COLLATE.*', ''), substring(type FROM ' COLLATE.*')) INTO same;
	IF NOT same THEN RETURN 'the first two are not equal'; END IF;
	EXECUTE format('CREATE TYPE shape AS (other integer, ref %s, name text, modified_at timestamptz)', type);
	PERFORM guest_context.create_entity('e', 'shape', key => '{ref,other}');
	SELECT min(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''(.*?)''\)')::timestamptz) INTO past
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'e_speed'::regclass;
	EXECUTE format('CREATE TABLE e_past PARTITION OF e_speed FOR VALUES FROM (''2020-01-01'') TO (%L)', past);

	-- other = 0: one and two in speed; 1: one in batch, two in speed; 2: two in batch, an older one in speed;
	-- 3: one in batch, two is a tombstone in speed; 4: both in batch; in each there is three as well
	ds = guest_context.create_dataset('e', '2020-02-01');
	EXECUTE format('INSERT INTO %s (other, ref, name, modified_at) VALUES (1, %L, ''batch'', ''2020-01-10''), (2, %L, ''batch'', ''2020-01-31 18:00''),
		(3, %2$L, ''batch'', ''2020-01-10''), (4, %2$L, ''older'', ''2020-01-10''), (4, %3$L, ''newer'', ''2020-01-11'')',
		guest_context.dataset_table(ds, 'e'), one, two);
	EXECUTE format('INSERT INTO %s (other, ref, name, modified_at) SELECT i, %L, ''three'', ''2020-01-10'' FROM generate_series(0, 4) i',
		guest_context.dataset_table(ds, 'e'), three);
	PERFORM guest_context.seal_dataset(ds);
	PERFORM guest_context.verify_dataset(ds);
	PERFORM guest_context.activate_dataset(ds);
	EXECUTE format('INSERT INTO e_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, other, ref, name, modified_at)
		SELECT ''2020-02-02'', nextval(''e_offset_seq''), 0, 0, 0, d, o, r::%s, n, v::timestamptz FROM (VALUES
		(0, %2$L, ''older'', ''2020-02-01'', false), (0, %3$L, ''newer'', ''2020-02-02'', false), (1, %3$L, ''speed'', ''2020-02-02'', false),
		(2, %2$L, ''late'', ''2020-01-31 17:00'', false), (3, %3$L, NULL, ''2020-02-02'', true)) x(o, r, n, v, d)',
		regexp_replace(type, ' COLLATE.*', ''), one, two);

	difference = format('SELECT count(*) = 0 FROM ((SELECT other, ref::text, name FROM e EXCEPT ALL SELECT other, ref::text, name FROM (%1$s) p)
		UNION ALL (SELECT other, ref::text, name FROM (%1$s) p EXCEPT ALL SELECT other, ref::text, name FROM e)) d', guest_context.truth_sql('e', true));
	EXECUTE difference INTO ok;
	result = CASE WHEN ok THEN 'map agrees' ELSE 'map differs' END;
	SET LOCAL guest_context.window_memory = '64kB';
	EXECUTE difference INTO ok;
	result = result || CASE WHEN ok THEN ', filter agrees' ELSE ', filter differs' END;
	RESET guest_context.window_memory;
	SET LOCAL enable_seqscan = off;
	EXECUTE difference INTO ok;
	result = result || CASE WHEN ok THEN ', index agrees: ' ELSE ', index differs: ' END;
	-- by either spelling, one key at a time
	FOR n IN 0..4 LOOP
		EXECUTE format('SELECT (SELECT coalesce(string_agg(name, ''+''), ''-'') FROM e WHERE ref = %1$L::%4$s AND other = %2$s) || ''/'' ||
			(SELECT coalesce(string_agg(name, ''+''), ''-'') FROM e WHERE ref = %3$L::%4$s AND other = %2$s)',
			one, n, two, regexp_replace(type, ' COLLATE.*', '')) INTO winner;
		result = result || winner || ' ';
	END LOOP;
	SET LOCAL enable_seqscan = on;
	PERFORM guest_context.drop_entity('e');
	DROP TYPE shape;
	RETURN result;
END $$;

-- in speed, speed over batch, batch over late speed, dead, batch: newer speed batch - newer, each by two spellings
SELECT * FROM (VALUES
	(1, 'integer',                 '7',          '7',          '8'),
	(2, 'bigint',                  '7',          '+7',         '-7'),
	(3, 'text',                    'a',          'a',          'A'),
	(4, 'text COLLATE "C"',        'a',          'a',          'A'),
	(5, 'text COLLATE caseless',   'Straße',     'STRAßE',     'Strase'),
	(6, 'text COLLATE numbers',    'a10',        'a10',        'a010'),
	(7, 'varchar(5)',              'a',          'a',          'b'),
	(8, 'char(5)',                 'a',          'a   ',       'b'),
	(9, 'bpchar',                  'a',          'a   ',       'b'),
	(10, 'numeric',                '1.0',        '1.000',      '1.01'),
	(11, 'float8',                 '0',          '-0',         'NaN'),
	(12, 'float4',                 'NaN',        'nan',        '1'),
	(13, 'timestamptz',            '2020-01-01 00:00+00', '2020-01-01 01:00+01', '2020-01-02'),
	(14, 'interval',               '1 day',      '24:00:00',   '1 day 00:00:01'),
	(15, 'uuid',                   '00000000-0000-0000-0000-00000000000a', '{0000000000000000000000000000000A}', '00000000-0000-0000-0000-00000000000b'),
	(16, 'jsonb',                  '{"a": 1.0, "b": null}', '{"b":null,"a":1.00}', '{"a": 1}'),
	(17, 'bytea',                  'a',          '\x61',       'b'),
	(18, 'inet',                   '10.0.0.1',   '10.0.0.1/32', '10.0.0.0/8'),
	(19, 'macaddr',                '08:00:2b:01:02:03', '08002b-010203', '08:00:2b:01:02:04'),
	(20, 'boolean',                'true',       'yes',        'false'),
	(21, 'date',                   '2020-01-02', '20200102',   '2020-01-03'),
	(22, 'timetz',                 '12:00+00',   '12:00+00',   '13:00+01'),
	(23, 'numeric[]',              '{1.0,NULL}', '{1.00,NULL}', '{1.0}'),
	(24, 'text[]',                 '{a,b}',      '{"a", "b"}', '{b,a}'),
	(25, 'int4range',              '[1,2]',      '[1,3)',      '[1,4)'),
	(26, 'mood',                   'good',       'good',       'bad'),
	(27, 'code',                   'a',          'a',          'b'),
	(28, 'cents',                  '1.0',        '1.00',       '2'),
	(29, 'pair',                   '(1.0,x)',    '(1.000,x)',  '(1.0,y)'),
	(30, 'name',                   'a',          'a',          'b'),
	(31, '"char"',                 'a',          'a',          'b'),
	(32, 'oid',                    '1',          '01',         '2'),
	(33, 'pg_lsn',                 '0/1',        '0/01',       '0/2')) v(i, type, one, two, three),
	LATERAL try(type, one, two, three) ORDER BY i;

RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SCHEMA key_types CASCADE;
DROP OWNED BY regress_keys_owner;
DROP ROLE regress_keys_owner;
