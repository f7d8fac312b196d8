# Maintenance workers and what can happen to them: A10, A4, E1, E8, E9, F1, kill -9.
# The first server does not preload the library: workers come on request alone.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $run = 'SELECT action, detail FROM guest_context.run_maintenance()';

# An entity with a dataset and a partition of long ago that nobody needs any more.
sub make_entity
{
	my ($node, $database) = @_;
	$node->safe_psql($database, q{
		CREATE EXTENSION guest_context;
		CREATE SCHEMA shop AUTHORIZATION shop_owner;
		SET SESSION AUTHORIZATION shop_owner;
		CREATE TYPE shop.shape AS (ref text, modified_at timestamptz);
		SELECT guest_context.create_entity('shop.things', 'shop.shape', overlap => '0', retention => '1 day');
		CREATE TABLE shop.things_speed_old (LIKE shop.things_speed INCLUDING ALL);
		DO $$ BEGIN EXECUTE format('ALTER TABLE shop.things_speed ATTACH PARTITION shop.things_speed_old FOR VALUES FROM (%L) TO (%L)',
			now() - interval '5 days', now() - interval '4 days'); END $$;
		INSERT INTO shop.things_speed_old (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, ref, modified_at)
			SELECT now() - interval '5 days', i, 0, 0, 0, false, 'old' || i, now() - interval '5 days' FROM generate_series(1, 100) i});
	my $dataset = $node->safe_psql($database, q{SELECT guest_context.create_dataset('shop.things', now())});
	$node->safe_psql($database, qq{SELECT guest_context.load_dataset($dataset, 'shop.things', 'TABLE shop.things'), guest_context.seal_dataset($dataset)});
	$node->safe_psql($database, "SELECT * FROM guest_context.verify_dataset($dataset)");
	$node->safe_psql($database, "SELECT guest_context.activate_dataset($dataset)");
	return;
}

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "autovacuum = off\nrestart_after_crash = on\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE shop_owner LOGIN');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(killed gone);
make_entity($node, 'killed');

my $working = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'guest_context maintenance'};
my $pending = q{SELECT count(*) FROM pg_inherits WHERE inhdetachpending};

# E9: a database whose worker is deep in a statement is copied, renamed and dropped.
sub make_way
{
	my ($how) = @_;
	$node->safe_psql('postgres', 'CREATE DATABASE slow');
	make_entity($node, 'slow');
	# an index that takes long to make, for whoever is no client
	$node->safe_psql('slow', q{
		SET SESSION AUTHORIZATION shop_owner;
		CREATE FUNCTION shop.slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN
			IF pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.=) '' THEN PERFORM pg_catalog.pg_sleep(60); END IF;
			RETURN $1;
		END $$;
		CREATE INDEX ON shop.things_versions (shop.slow(ref))});
	for my $ddl ('CREATE DATABASE copied TEMPLATE slow', 'ALTER DATABASE slow RENAME TO renamed', 'DROP DATABASE renamed')
	{
		my $database = $ddl =~ /DROP/ ? 'renamed' : 'slow';
		$node->safe_psql($database, q{SELECT guest_context.drop_dataset(dataset) FROM guest_context.dataset WHERE state = 'loading'});
		$node->safe_psql($database, q{SELECT guest_context.build_dataset('shop.things')});
		$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
			WHERE backend_type = 'guest_context maintenance' AND wait_event = 'PgSleep'}) or die 'no worker is building';
		my $begun = time;
		$node->safe_psql('postgres', $ddl);
		cmp_ok(time - $begun, '<', 4, "E9, $how: $ddl");
	}
	$node->safe_psql('postgres', 'DROP DATABASE copied');
	return;
}

# --- F1: a standby has no worker, and says where to ask
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "shared_preload_libraries = 'guest_context'\n");
$standby->start;
my (undef, undef, $refused) = $standby->psql('killed', $run);
like($refused, qr/cannot run maintenance on a standby server\nHINT:  Run it on the primary/, 'F1: refused on a standby');
is($standby->safe_psql('killed', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'guest_context%'}),
	'0', 'F1: no launcher on a standby');

# --- E1, kill -9: a reader keeps the partition; the worker dies between mark and end
my $reader = $node->background_psql('killed', on_error_stop => 0);
$reader->query_safe('BEGIN');
$reader->query_safe('SELECT count(*) FROM shop.things_speed_old');
my $caller = $node->background_psql('killed', on_error_stop => 0);
$caller->query_until(qr/asked/, "\\echo asked\n$run;\n");
ok($node->poll_query_until('killed', "SELECT ($pending) = 1"), 'the partition is marked');
my $pid = $node->safe_psql('killed', $working);
my $logged = -s $node->logfile;
kill 'KILL', $pid;
$_->{run}->finish for $reader, $caller;
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $logged);
ok($node->poll_query_until('postgres', undef, ''), 'the server is back after kill -9 of the worker');
is($node->safe_psql('killed', $pending), '1', 'the partition is still marked');
is($node->safe_psql('killed', 'SELECT count(*) FROM shop.things'), '100', 'and nothing is missing');
is($node->safe_psql('killed', $run), 'retention|dropped partition shop.things_speed_old', 'the next worker goes on from there');
is($node->safe_psql('killed', q{SELECT to_regclass('shop.things_speed_old') IS NULL}), 't', 'it is dropped');
is($node->safe_psql('killed', 'SELECT count(*) FROM guest_context._leaving'), '0', 'and off the list');

# --- the standby has followed
$node->wait_for_catchup($standby);
is($standby->safe_psql('killed', 'SELECT count(*) FROM shop.things'), '100', 'the standby reads the same');
$standby->stop;

# --- A4: SIGTERM ends a worker at once, and its caller is told
make_entity($node, 'gone');
$reader = $node->background_psql('gone');
$reader->query_safe('BEGIN');
$reader->query_safe('SELECT count(*) FROM shop.things_speed_old');
$caller = $node->background_psql('gone', on_error_stop => 0);
$caller->query_until(qr/asked/, "\\echo asked\n$run;\n");
$node->poll_query_until('gone', "SELECT ($pending) = 1");
my $begun = time;
$node->safe_psql('gone', "SELECT pg_terminate_backend(pid) FROM ($working) w");
ok($node->poll_query_until('gone', "SELECT NOT EXISTS ($working)"), 'A4: the worker has gone');
cmp_ok(time - $begun, '<', 2, 'A4: soon');
$caller->query_until(qr/next/, "\\echo next\n");
like($caller->{stderr}, qr/the maintenance worker of role "shop_owner" ended before it was done/, 'A4: its caller knows');
$caller->{stderr} = '';

# --- E8: the extension is dropped under a worker
$logged = -s $node->logfile;
$caller->query_until(qr/asked/, "\\echo asked\n$run;\n");
$node->poll_query_until('gone', "SELECT EXISTS ($working)");
$node->safe_psql('gone', 'SET client_min_messages = warning; DROP EXTENSION guest_context CASCADE');
$caller->query_until(qr/after/, "\\echo after\n");
ok($node->poll_query_until('gone', "SELECT NOT EXISTS ($working)"), 'E8: the worker has gone');
my $log = slurp_file($node->logfile, $logged);
unlike($log, qr/maintenance of .* failed|PANIC|TRAP/, 'E8: quietly');
$_->quit for $reader, $caller;

# --- E9: without preloading too
make_way('not preloaded');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'guest_context%'}),
	'E9: nobody stays behind');

# --- A role that may not log in
if ($node->pg_version < 17)
{
	$node->safe_psql('postgres', 'ALTER ROLE shop_owner NOLOGIN');
	(undef, undef, $refused) = $node->psql('killed', $run);
	like($refused, qr/cannot run maintenance: role "shop_owner" may not log in.*HINT:  ALTER ROLE shop_owner LOGIN/s,
		'a role that no worker can run as is named');
}

# --- with the library preloaded: A10, and nothing has to be asked for
$node->safe_psql('killed', q{
	SET SESSION AUTHORIZATION shop_owner;
	SELECT guest_context.alter_entity('shop.things', rebuild_every => '1 hour')});
$node->safe_psql('killed', q{UPDATE guest_context._dataset SET as_of = as_of - interval '2 hours'});
my $last = $node->safe_psql('killed', q{SELECT relid FROM pg_partition_tree('shop.things_speed') WHERE isleaf ORDER BY relid::text DESC LIMIT 1});
$node->safe_psql('killed', "DROP TABLE $last");
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'guest_context'\n");
$node->restart;
if ($node->pg_version < 17)
{
	$node->wait_for_log(qr/entities in the database with OID \d+ are not maintained: role "shop_owner" may not log in/);
	pass('the launcher says what is in its way');
	$node->safe_psql('postgres', 'ALTER ROLE shop_owner LOGIN');
	$node->restart;
}
ok($node->poll_query_until('killed', "SELECT to_regclass('$last') IS NOT NULL"), 'after a start partitions are made ahead');
ok($node->poll_query_until('killed', q{SELECT count(*) = 1 FROM guest_context.dataset WHERE built AND active}),
	'and rebuild_every is heeded');

# --- an order is carried out when it commits
my $ordered = $node->safe_psql('killed', q{SELECT guest_context.build_dataset('shop.things')});
ok($node->poll_query_until('killed', "SELECT state = 'sealed' FROM guest_context.dataset WHERE dataset = $ordered"),
	'an order is carried out when it commits');

# --- E8: the extension is dropped while the worker, which has just begun, waits for its catalogue
{
	my $since = -s $node->logfile;
	$node->safe_psql('postgres', 'CREATE DATABASE brief');
	for my $hold (0.02, 0.05, 0.1, 0.1, 0.15)
	{
		# an order's commit starts the worker
		$node->safe_psql('brief', q{
			CREATE EXTENSION guest_context;
			CREATE SCHEMA shop;
			CREATE TYPE shop.shape AS (ref text, modified_at timestamptz);
			SELECT guest_context.create_entity('shop.things', 'shop.shape');
			SELECT guest_context.build_dataset('shop.things');
			BEGIN;
			SET LOCAL client_min_messages = warning;
			DROP EXTENSION guest_context CASCADE;
			DROP SCHEMA shop CASCADE;} . "SELECT pg_sleep($hold); COMMIT");
	}
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'brief'}), 'E8: the workers leave');
	my @errors = grep { /ERROR:|FATAL:/ } split /\n/, slurp_file($node->logfile, $since);
	is("@errors", '', 'E8: without a word about what is gone');
}

# --- E9: DROP, RENAME and TEMPLATE of a database with a worker deep in a statement
make_way('preloaded');

# --- A10: without a free slot the caller is told, and so is who orders something
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->append_conf('postgresql.conf', 'max_worker_processes = 1');    # which the server itself takes
$node->restart;
(undef, undef, $refused) = $node->psql('killed', $run);
like($refused, qr/no background worker is free for maintenance\nHINT:  Try again, or raise max_worker_processes/, 'A10: run_maintenance');
(undef, undef, $refused) = $node->psql('killed', q{SELECT guest_context.build_dataset('shop.things')});
like($refused, qr/WARNING:  no background worker is free to do what was ordered/, 'A10: build_dataset');

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|[] ]XX[0-9A-Z]{3} /, 'nothing unexpected in the log');
$node->stop;
done_testing();
