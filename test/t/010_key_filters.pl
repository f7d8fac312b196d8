# Key filters where servers stop, follow and are copied: what was written into an old partition
# is found by its key, though there is a filter that was made before. A3: after a crash; F1, F2: on a
# standby, and when that is promoted; F5: in a restored dump; F6: in a cluster that pg_upgrade has made.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# An old partition with 300 rows, and keys of a kind of their own: equal ones have other bytes.
my $setup = q{
	CREATE EXTENSION guest_context;
	CREATE ROLE app LOGIN;
	CREATE SCHEMA shop AUTHORIZATION app;
	SET SESSION AUTHORIZATION app;
	CREATE COLLATION shop.no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TYPE shop.color AS ENUM ('red', 'green');
	CREATE TYPE shop.thing_shape AS (tenant text COLLATE shop.no_case, number numeric, color shop.color, name text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.things', 'shop.thing_shape', key => '{tenant,number,color}');
	CREATE FUNCTION shop.put(first integer, last integer) RETURNS void LANGUAGE sql AS $$
		INSERT INTO shop.things_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, tenant, number, color, name)
		SELECT now() - interval '60 hours', i, 0, 0, 0, false, timestamptz '2020-01-01Z', 'Tenant' || i % 7, (i || '.50')::numeric, CASE WHEN i % 2 = 0 THEN 'red' ELSE 'green' END::shop.color, 'n' || i
		FROM generate_series(first, last) i $$;
	-- how many of these keys are found, each looked for by itself, and all in one join
	CREATE FUNCTION shop.found(first integer, last integer) RETURNS text LANGUAGE sql AS $$
		SELECT (SELECT count(*) FROM generate_series(first, last) i, LATERAL (SELECT FROM shop.things t WHERE t.tenant = 'TENANT' || i % 7 AND t.number = i + 0.5
				AND t.color = CASE WHEN i % 2 = 0 THEN 'red' ELSE 'green' END::shop.color OFFSET 0) t) || ' ' ||
			(SELECT count(*) FROM shop.things WHERE number BETWEEN first AND last + 0.9) $$;
};
my $old_leaf = q{
	SET SESSION AUTHORIZATION app;
	CREATE TABLE shop.things_speed_old (LIKE shop.things_speed INCLUDING ALL);
	DO $$ BEGIN EXECUTE format('ALTER TABLE shop.things_speed ATTACH PARTITION shop.things_speed_old FOR VALUES FROM (%L) TO (%L)',
		now() - interval '3 days', now() - interval '2 days'); END $$;
	SELECT shop.put(1, 300);
};
my $filters = q{SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'gc_key_filter' AND relnamespace = 'shop'::regnamespace};

sub sql { my ($node, $sql, $db) = @_; return $node->safe_psql($db // 'postgres', $sql) }

# --- crashes
for my $level ('minimal', 'replica')
{
	my $node = PostgreSQL::Test::Cluster->new("crash_$level");
	$node->init(allows_streaming => $level eq 'replica');
	$node->append_conf('postgresql.conf', "autovacuum = off\nfull_page_writes = on\n");
	$node->start;
	sql($node, $setup);
	# with minimal, neither rows nor filter of one transaction are logged by themselves
	sql($node, "BEGIN; $old_leaf CREATE INDEX ON shop.things_speed_old USING gc_key_filter (tenant, number, color); COMMIT");
	is(sql($node, 'SELECT shop.found(1, 300)'), '300 300', "$level: all keys are found");
	$node->stop('immediate');
	$node->start;
	is(sql($node, 'SELECT shop.found(1, 300)'), '300 300', "$level: and after a crash");
	# into pages as they are since a checkpoint, and into pages that were changed since
	sql($node, 'CHECKPOINT');
	sql($node, 'SELECT shop.put(1001, 1100)');
	sql($node, "SELECT shop.put($_, $_)") for 2001 .. 2010;
	$node->stop('immediate');
	$node->start;
	is(sql($node, 'SELECT shop.found(1001, 2100)'), '110 110', "$level: A3: what was written by hand is found after a crash");
	is(sql($node, 'SELECT shop.found(1, 300)'), '300 300', "$level: and what was there");
	# in flight at the crash: gone, and written again
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN; SELECT shop.put(3001, 3100)');
	sql($node, 'SELECT shop.put(4001, 4001)');
	$node->stop('immediate');
	eval { $session->quit };
	$node->start;
	is(sql($node, 'SELECT shop.found(3001, 3100)'), '0 0', "$level: what was in flight is gone");
	sql($node, 'SELECT shop.put(3001, 3100)');
	is(sql($node, 'SELECT shop.found(3001, 4001)'), '101 101', "$level: and can be written again");
	# a partition without log is empty then, and its filter that of an empty one
	sql($node, 'ALTER TABLE shop.things_speed_old SET UNLOGGED');
	is(sql($node, 'SELECT shop.found(1, 300)'), '300 300', "$level: a partition without log");
	$node->stop('immediate');
	$node->start;
	is(sql($node, 'SELECT shop.found(1, 300)'), '0 0', "$level: is empty after a crash");
	sql($node, 'SELECT shop.put(1, 300)');
	is(sql($node, 'SELECT shop.found(1, 300)'), '300 300', "$level: and is filled again");
	$node->stop;
}

# --- a standby
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "autovacuum = off\n");
$primary->start;
sql($primary, $setup . $old_leaf);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $session = $standby->background_psql('postgres');
$session->query_safe('SET plan_cache_mode = force_generic_plan');
$session->query_safe('PREPARE found(integer, integer) AS SELECT shop.found($1, $2)');
sub same
{
	my ($first, $last, $found, $what) = @_;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	is(sql($primary, "SELECT shop.found($first, $last)"), $found, "primary: $what");
	is(sql($standby, "SELECT shop.found($first, $last)"), $found, "F1: standby: $what");
	is($session->query_safe("EXECUTE found($first, $last)"), $found, "F1: a session of it: $what");
	return;
}
same(1, 300, '300 300', 'without a filter');
is(sql($primary, q{SET ROLE app; SELECT detail FROM guest_context.run_maintenance() WHERE action = 'filters'}), 'made the key filter of 1 partition of the past', 'maintenance makes one');
same(1, 400, '300 300', 'with a filter');
sql($primary, 'SELECT shop.put(301, 400)');
same(1, 400, '400 400', 'with rows that were written by hand');
sql($primary, 'BEGIN; SELECT shop.put(401, 500); ROLLBACK');
same(1, 500, '400 400', 'with rows that were undone');
sql($primary, q{REINDEX INDEX shop.things_speed_old_tenant_number_color_idx});
same(1, 500, '400 400', 'with the filter made anew');
sql($primary, q{SELECT shop.put(401, 500)});
same(1, 500, '500 500', 'and more rows');
sql($primary, q{REINDEX INDEX CONCURRENTLY shop.things_speed_old_tenant_number_color_idx});
sql($primary, q{SELECT shop.put(501, 20000)});
same(1, 20000, '20000 20000', 'replaced, and with many more rows');
sql($primary, q{VACUUM FULL shop.things_speed_old});
same(1, 20000, '20000 20000', 'of another size');
sql($primary, q{DROP INDEX shop.things_speed_old_tenant_number_color_idx; SELECT shop.put(20001, 20100)});
same(19001, 20200, '1100 1100', 'dropped');
sql($primary, q{SELECT count(*) FROM guest_context.run_maintenance(); SELECT shop.put(20101, 20200)});
same(19001, 20200, '1200 1200', 'and made once more');

# --- dumps
my $dir = PostgreSQL::Test::Utils::tempdir();
sql($primary, "CREATE DATABASE $_") for qw(plain custom);
$primary->command_ok([ 'pg_dump', '-d', $primary->connstr('postgres'), '-f', "$dir/plain.sql" ], 'pg_dump');
$primary->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $primary->connstr('plain'), '-f', "$dir/plain.sql" ], 'psql restores it');
$primary->command_ok([ 'pg_dump', '-Fc', '-d', $primary->connstr('postgres'), '-f', "$dir/custom.dump" ], 'pg_dump, custom format');
$primary->command_ok([ 'pg_restore', '-e', '-j', '3', '-d', $primary->connstr('custom'), "$dir/custom.dump" ], 'pg_restore with three jobs');
for my $db (qw(plain custom))
{
	is(sql($primary, $filters, $db), '1', "F5: $db: the filter came along");
	is(sql($primary, 'SELECT shop.found(1, 20200)', $db), '20200 20200', "$db: and says what it said");
	sql($primary, 'SELECT shop.put(20201, 20300)', $db);
	is(sql($primary, 'SELECT shop.found(20001, 20400)', $db), '300 300', "$db: rows go into it");
	is(sql($primary, q{SET ROLE app; SELECT count(*) FROM guest_context.run_maintenance() WHERE action = 'filters'}, $db), '0', "$db: maintenance makes no other one");
	sql($primary, "DROP DATABASE $db");
}

# --- promotion
$primary->stop;
$standby->promote;
is($session->query_safe('EXECUTE found(19001, 20200)'), '1200 1200', 'F2: a promoted standby finds all');
sql($standby, 'SELECT shop.put(20201, 20300)');
is($session->query_safe('EXECUTE found(19001, 20300)'), '1300 1300', 'F2: and what is written then');
$session->quit;
$standby->stop;

# --- pg_upgrade, which takes files over as they are
my $new = PostgreSQL::Test::Cluster->new('upgraded');
$new->init;
my $bindir = $new->config_data('--bindir');
chdir $dir or die "chdir: $!";
command_ok([ 'pg_upgrade', '--no-sync', '-d', $standby->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
		'-s', $new->host, '-p', $standby->port, '-P', $new->port ], 'pg_upgrade runs');
$new->start;
is(sql($new, $filters), '1', 'F6: the filter came along');
is(sql($new, 'SELECT shop.found(1, 20300)'), '20300 20300', 'F6: and says what it said');
sql($new, 'SELECT shop.put(20301, 20400)');
is(sql($new, 'SELECT shop.found(20001, 20400)'), '400 400', 'F6: rows go into it');
$new->stop;
done_testing();
