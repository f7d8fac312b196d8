# F1, F2: a hot standby reads the same truth as its primary, in every way of
# reading, and sees an activation or a rollback as soon as it has replayed it: in
# sessions that have prepared statements, not in snapshots from before. A partition
# that the primary drops under a reader ends that reader or waits for it, and is
# never a hole. After promotion everything goes on where it was.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "autovacuum = off\njit = off\n");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION guest_context;
	CREATE ROLE app LOGIN;
	CREATE SCHEMA shop AUTHORIZATION app;
	SET SESSION AUTHORIZATION app;
	CREATE TYPE shop.guest_shape AS (ref text, name text, modified_at timestamptz);
	CREATE TYPE shop.order_shape AS (ref integer, guest_ref text, total numeric, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.guests', 'shop.guest_shape', overlap => '0', retention => '1 hour');
	SELECT guest_context.create_entity('shop.orders', 'shop.order_shape', parent => 'shop.guests', parent_ref => '{guest_ref}', retention => '1 hour');
	-- a partition of two days ago
	CREATE TABLE shop.orders_speed_old (LIKE shop.orders_speed INCLUDING ALL);
	DO $$ BEGIN EXECUTE format('ALTER TABLE shop.orders_speed ATTACH PARTITION shop.orders_speed_old FOR VALUES FROM (%L) TO (%L)',
		now() - interval '3 days', now() - interval '2 days'); END $$;
	-- n orders in three versions, the newest neither first nor last; a tenth is deleted
	CREATE FUNCTION shop.put(first integer, last integer, arrived_at timestamptz) RETURNS void LANGUAGE sql AS $$
		INSERT INTO shop.orders_versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, modified_at, ref, guest_ref, total)
		SELECT arrived_at, nextval('shop.orders_offset_seq'), 0, 0, 0, v = 2 AND i % 10 = 0, timestamptz '2020-01-01' + v % 3 * interval '1 day', i,
		       CASE WHEN v <> 2 OR i % 10 <> 0 THEN 'g' || (i + v) % 7 END, CASE WHEN v <> 2 OR i % 10 <> 0 THEN i * v END
		FROM generate_series(first, last) i, generate_series(1, 3) v $$;
	SELECT shop.put(1, 1500, now() - interval '60 hours'), shop.put(1501, 3000, clock_timestamp());
	SELECT guest_context.apply('shop.guests', (SELECT json_agg(json_build_object('ref', 'g' || i, 'name', 'name ' || i, 'modified_at', '2020-01-01T00:00:00Z')) FROM generate_series(0, 6) i));
});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1s\nmax_standby_streaming_delay = -1\n");
$standby->start;

# Ways of reading; each gives one line.
my $all = q{SELECT count(*), md5(string_agg(o::text, ',' ORDER BY ref)) FROM shop.orders o};
my %reading = (
	'a scan' => $all,
	'a scan with little memory' => "SET guest_context.window_memory = '64kB'; $all",
	'a scan by index' => "SET enable_seqscan = off; SET enable_bitmapscan = off; $all",
	'a parallel scan' => "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; $all",
	'points' => q{SELECT string_agg(o::text, ',' ORDER BY ref) FROM shop.orders o WHERE ref IN (7, 10, 1400, 1600, 2999, 5000)},
	'a join' => q{SELECT string_agg(x, ',' ORDER BY x) FROM (SELECT g.name || count(*) || sum(o.total) FROM shop.guests g JOIN shop.orders o ON o.guest_ref = g.ref GROUP BY g.name) q(x)},
	'top-N' => q{SELECT string_agg(ref::text, ',') FROM (SELECT ref FROM shop.orders ORDER BY total DESC, ref LIMIT 5) x});

sub same
{
	my ($when) = @_;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	for my $way (sort keys %reading)
	{
		is($standby->safe_psql('postgres', $reading{$way}), $primary->safe_psql('postgres', $reading{$way}), "$when: $way");
	}
	return;
}

# A dataset of orders 1 to n, in a transaction and by a call each; active afterwards.
sub activate
{
	my ($orders, $total) = @_;
	my $dataset = $primary->safe_psql('postgres', q{SET ROLE app; SELECT guest_context.create_dataset('shop.guests', clock_timestamp())});
	$primary->safe_psql('postgres', qq{
		SET ROLE app;
		SELECT guest_context.load_dataset($dataset, 'shop.guests', 'TABLE shop.guests'),
		       guest_context.load_dataset($dataset, 'shop.orders', 'SELECT i AS ref, ''g'' || i % 7 AS guest_ref, $total AS total, timestamptz ''2020-02-01'' AS modified_at FROM generate_series(1, $orders) i');
		SELECT guest_context.seal_dataset($dataset);
		SELECT count(*) FROM guest_context.verify_dataset($dataset)});
	$primary->safe_psql('postgres', "SET ROLE app; SELECT guest_context.activate_dataset($dataset, force => true)");
	return $dataset;
}

same('without a dataset');

# --- sessions of the standby that go through what the primary does
my $session = $standby->background_psql('postgres', on_error_stop => 0);
$session->query_safe('SET plan_cache_mode = force_generic_plan; SET jit = off');
$session->query_safe("PREPARE everything AS $all");
$session->query_safe('PREPARE point(integer) AS SELECT total FROM shop.orders WHERE ref = $1');
my $before = $primary->safe_psql('postgres', $all);
is($session->query('EXECUTE everything'), $before, 'a prepared statement of the standby');
is($session->query('EXECUTE point(1)'), '2', 'and one for a key');
my $old = $standby->background_psql('postgres', on_error_stop => 0);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$old->query_safe("PREPARE everything AS $all");
is($old->query('EXECUTE everything'), $before, 'an old snapshot of the standby');

my $first = activate(2000, 1);
same('after an activation');
my $after = $primary->safe_psql('postgres', $all);
isnt($after, $before, 'which changed something');
is($session->query('EXECUTE everything'), $after, 'the prepared statement sees the activation');
is($session->query('EXECUTE point(1)'), '1', 'the one for a key too');
is($old->query('EXECUTE everything'), $before, 'the old snapshot does not');
is($old->query($all), $before, 'nor does a new plan in it');
$old->query_safe('COMMIT');
is($old->query('EXECUTE everything'), $after, 'the next transaction does');

my $second = activate(2500, 2);
$primary->safe_psql('postgres', q{SET ROLE app; SELECT shop.put(4000, 4100, clock_timestamp())});
same('after another one and new records');
is($session->query('EXECUTE point(1)'), '2', 'the prepared statement follows');
is($primary->safe_psql('postgres', q{SET ROLE app; SELECT guest_context.rollback_dataset('shop.guests')}), $first, 'the primary rolls back');
same('after a rollback');
is($session->query('EXECUTE point(1)'), '1', 'the prepared statement follows back');

# --- a partition goes while a snapshot of the standby needs it
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = 1s\n");
$standby->reload;
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $needed = $old->query($all);
activate(2500, 3);
$primary->safe_psql('postgres', q{SET ROLE app; SELECT count(*) FROM guest_context.run_maintenance()});
is($primary->safe_psql('postgres', q{SELECT to_regclass('shop.orders_speed_old') IS NULL}), 't', 'the primary has dropped a partition');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
my $out = eval { $old->query($all) } // '';
ok($out eq $needed || $out eq '' && slurp_file($standby->logfile) =~ /conflict with recovery|because of a concurrent change/,
	'a snapshot from before sees what it saw, or is told') or diag("got '$out' instead of '$needed'");
eval { $old->quit };
same('after the drop');
is($session->query('EXECUTE point(1)'), '3', 'the prepared statement reads on');

# --- nobody writes on a standby; a promoted one goes on
my (undef, undef, $refused) = $standby->psql('postgres', q{SELECT guest_context.apply('shop.guests', '{"ref": "g1", "name": "x", "modified_at": "2020-01-01T00:00:00Z"}')});
like($refused, qr/read-only transaction|during recovery/, 'apply() is refused on a standby');
my $truth = $primary->safe_psql('postgres', $all);
$primary->stop;
$standby->promote;
is($standby->safe_psql('postgres', $all), $truth, 'F2: a promoted standby has the same truth');
is($session->query('EXECUTE everything'), $truth, 'F2: for a session from before too');
$standby->safe_psql('postgres', q{SET ROLE app;
	SELECT guest_context.apply('shop.orders', '{"ref": 1, "guest_ref": "g1", "total": 77, "modified_at": "2020-03-01T00:00:00Z"}')});
is($session->query('EXECUTE point(1)'), '77', 'F2: and takes records');
$session->quit;
$standby->stop;
done_testing();
