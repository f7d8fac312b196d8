# F5: pg_dump and psql, or pg_restore with several jobs, into a fresh database give
# the same truth: records, tombstones, windows, which dataset is active and which it
# was before. The copy then goes on by itself, in the same way as the original.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\njit = off\n");
$node->start;
$node->safe_psql('postgres', "CREATE ROLE app LOGIN; CREATE ROLE reader LOGIN");
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(source plain custom);

# Three kinds of keys; expiry, defaults, checks; names that need quotes.
$node->safe_psql('source', q{
	CREATE EXTENSION guest_context;
	CREATE SCHEMA "Shop" AUTHORIZATION app;
	GRANT USAGE ON SCHEMA "Shop" TO reader;
	SET SESSION AUTHORIZATION app;
	CREATE COLLATION "Shop".no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE DOMAIN "Shop".amount AS numeric CHECK (VALUE >= 0);
	CREATE TABLE "Shop".guest_shape (ref text COLLATE "Shop".no_case, name text NOT NULL, modified_at timestamptz);
	CREATE TABLE "Shop".order_shape (tenant integer, "Number" numeric, guest_ref text COLLATE "Shop".no_case, status text DEFAULT 'NEW',
		total "Shop".amount CHECK (total < 1000000), tags text[], rest jsonb, modified_at timestamptz, PRIMARY KEY (tenant, "Number"));
	CREATE TYPE "Shop".visit_shape AS (ref uuid, guest_ref text COLLATE "Shop".no_case, modified_at timestamptz);
	SELECT guest_context.create_entity('"Shop".guests', '"Shop".guest_shape', overlap => '1 hour');
	SELECT guest_context.create_entity('"Shop"."Orders"', '"Shop".order_shape', key => '{tenant,Number}', parent => '"Shop".guests', parent_ref => '{guest_ref}', unmapped => 'rest');
	SELECT guest_context.create_entity('"Shop".visits', '"Shop".visit_shape', parent => '"Shop".guests', parent_ref => '{guest_ref}', expire_after => '100 years');
	SELECT guest_context.grant_reader(e::regclass, 'reader') FROM unnest('{"\"Shop\".guests","\"Shop\".\"Orders\"","\"Shop\".visits"}'::text[]) e;
	CREATE FUNCTION "Shop".put(first integer, last integer, day text) RETURNS void LANGUAGE sql AS $$
		SELECT guest_context.apply('"Shop".guests', (SELECT json_agg(json_build_object('ref', CASE WHEN i % 2 = 0 THEN 'Guest' ELSE 'GUEST' END || i % 20, 'name', day || i, 'modified_at', day || 'T00:00:00Z')) FROM generate_series(first, last) i));
		SELECT guest_context.apply('"Shop"."Orders"', (SELECT json_agg(json_build_object('tenant', i % 3, 'Number', i / 2.0, 'guest_ref', 'guest' || i % 20, 'total', i, 'tags', ARRAY['a', day], 'other', i, 'modified_at', day || 'T00:00:00Z')) FROM generate_series(first, last) i));
		SELECT guest_context.apply('"Shop".visits', (SELECT json_agg(json_build_object('ref', md5(i::text)::uuid, 'guest_ref', 'guest' || i % 20, 'modified_at', day || 'T00:00:00Z')) FROM generate_series(first, last) i));
		SELECT guest_context.apply('"Shop"."Orders"', (SELECT json_agg(json_build_object('tenant', i % 3, 'Number', i / 2.0, 'modified_at', day || 'T00:00:00Z')) FROM generate_series(first, last, 7) i), deleted => true);
		SELECT $$;
	SELECT "Shop".put(1, 200, '2020-01-01');
});

# Datasets: retired, active, sealed and loading; built ones and external ones.
sub dataset
{
	my ($as_of, $note) = @_;
	my $id = $node->safe_psql('source', qq{SET ROLE app; SELECT guest_context.create_dataset('"Shop".guests', $as_of)});
	$node->safe_psql('source', qq{
		SET ROLE app;
		SELECT guest_context.load_dataset($id, '"Shop".guests', 'SELECT ''guest'' || i AS ref, ''$note'' AS name, timestamptz ''2020-01-15'' AS modified_at, i = 3 AS gc_deleted FROM generate_series(1, 30) i'),
		       guest_context.load_dataset($id, '"Shop"."Orders"', 'SELECT i % 3 AS tenant, i / 2.0 AS "Number", ''guest'' || i % 20 AS guest_ref, ''$note'' AS status, i AS total, ''{d}''::text[] AS tags, NULL::jsonb AS rest, timestamptz ''2019-12-01'' AS modified_at FROM generate_series(150, 300) i'),
		       guest_context.load_dataset($id, '"Shop".visits', 'SELECT md5(i::text)::uuid AS ref, ''GUEST1'' AS guest_ref, timestamptz ''2020-02-01'' AS modified_at FROM generate_series(1, 40) i')});
	return $id;
}
sub seal { my ($id) = @_; $node->safe_psql('source', "SET ROLE app; SELECT guest_context.seal_dataset($id); SELECT count(*) FROM guest_context.verify_dataset($id)"); return }
sub activate { my ($id) = @_; $node->safe_psql('source', "SET ROLE app; SELECT count(*) FROM guest_context.verify_dataset($id); SELECT guest_context.activate_dataset($id, force => true)"); return }

my $retired = dataset("clock_timestamp() - interval '2 hours'", 'first');
seal($retired);
activate($retired);
$node->safe_psql('source', q{SET ROLE app; SELECT "Shop".put(100, 250, '2020-02-01')});
my $active = $node->safe_psql('source', q{SET ROLE app; BEGIN; SELECT guest_context.build_dataset('"Shop".guests') AS id \gset
	SELECT count(*) FROM (SELECT guest_context._build_dataset_now(:id)) x WHERE false; SELECT guest_context._build_dataset_now(:id); COMMIT});
($active) = $active =~ /(\d+)\s*\z/;
activate($active);
$node->safe_psql('source', q{SET ROLE app; SELECT "Shop".put(240, 260, '2020-01-10'), "Shop".put(255, 270, '2020-03-01')});
my $sealed = dataset('clock_timestamp()', 'sealed');
seal($sealed);
dataset('clock_timestamp()', 'loading');

my @entities = ('"Shop".guests', '"Shop"."Orders"', '"Shop".visits');
sub truth
{
	my ($db) = @_;
	return join "\n", map { $node->safe_psql($db, "SELECT count(*), md5(string_agg(e::text, ',' ORDER BY e::text COLLATE \"C\")) FROM $_ e") } @entities;
}
sub portable
{
	my ($db) = @_;
	return join "\n", map {
		my $sql = $node->safe_psql($db, "SELECT guest_context.truth_sql('$_', true)");
		$node->safe_psql($db, "SELECT count(*), md5(string_agg(e::text, ',' ORDER BY e::text COLLATE \"C\")) FROM ($sql) e")
	} @entities;
}
sub datasets { my ($db) = @_; return $node->safe_psql($db, 'SELECT dataset, root, state, as_of, rows, tombstones, window_start, built, verified_ok FROM guest_context.dataset ORDER BY 1') }
sub windows { my ($db) = @_; return $node->safe_psql($db, 'SELECT versions, dataset_id, window_start, floor, leaves_until, dropped_before FROM guest_context._window ORDER BY versions::text') }

my $truth = truth('source');
like($truth, qr/^\d\d+\|.*\n\d\d+\|.*\n\d\d+\|/, 'there is something in each entity');
is(portable('source'), $truth, 'and it agrees with the portable form');

my $dir = PostgreSQL::Test::Utils::tempdir();
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-f', "$dir/plain.sql" ], 'pg_dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dir/plain.sql" ], 'psql restores it');
$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('source'), '-f', "$dir/custom.dump" ], 'pg_dump, custom format');
$node->command_ok([ 'pg_restore', '-e', '-j', '3', '-d', $node->connstr('custom'), "$dir/custom.dump" ], 'pg_restore with three jobs');

for my $db (qw(plain custom))
{
	is(truth($db), $truth, "$db: the same truth");
	is(portable($db), $truth, "$db: by the portable form too");
	is(datasets($db), datasets('source'), "$db: the same datasets");
	is(windows($db), windows('source'), "$db: the same windows");
	is($node->safe_psql($db, q{SET SESSION AUTHORIZATION reader; SELECT count(*) FROM "Shop"."Orders"}),
		$node->safe_psql('source', 'SELECT count(*) FROM "Shop"."Orders"'), "$db: grants came along");
}

# --- each goes on by itself, all in the same way
my @verbs = (
	[ 'records, of a version that is there too', q{SELECT "Shop".put(245, 280, '2020-03-01')} ],
	[ 'a rollback', q{SELECT guest_context.rollback_dataset('"Shop".guests')} ],
	[ 'the dataset that was sealed', "SELECT count(*) FROM guest_context.verify_dataset($sealed); SELECT guest_context.activate_dataset($sealed, force => true)" ],
	[ 'a late record', q{SELECT "Shop".put(1, 300, '2020-01-20')} ],
	[ 'maintenance', 'SELECT count(*) >= 0 FROM guest_context.run_maintenance()' ],
	[ 'one that was loading', q{SELECT guest_context.seal_dataset(d.dataset) FROM guest_context.dataset d WHERE state = 'loading'} ]);
for my $verb (@verbs)
{
	my ($what, $sql) = @$verb;
	my @told = map { $node->safe_psql($_, "SET SESSION AUTHORIZATION app; $sql") } qw(source plain custom);
	is("$told[1]\n$told[2]", "$told[0]\n$told[0]", "$what: the same answer");
	my $now = truth('source');
	is(truth($_), $now, "$what: the same truth in $_") for qw(plain custom);
	is(portable('plain'), $now, "$what: by the portable form too");
}

# --- and a new dataset and a new entity get numbers of their own
for my $db (qw(plain custom))
{
	is($node->safe_psql($db, q{SET SESSION AUTHORIZATION app; SELECT guest_context.create_dataset('"Shop".guests', clock_timestamp()) > (SELECT max(dataset) FROM guest_context.dataset)}),
		't', "$db: the next dataset has a new number");
}

$node->stop;
done_testing();
