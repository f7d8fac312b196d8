# Datasets across crashes and on a standby.
#
# G1: a loader or a seal that dies leaves the dataset loading: nothing of it can be
# activated, and it can be loaded on or dropped. A3: what was activated is there after
# a crash, though its rows were written in bulk, past the usual path, without WAL
# of their own where wal_level is minimal. F1: a standby reads the same truth.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $setup = q{
CREATE EXTENSION guest_context;
CREATE ROLE app LOGIN;
CREATE SCHEMA shop AUTHORIZATION app;
SET ROLE app;
CREATE TYPE shop.shape AS (ref text, note text, modified_at timestamptz);
SELECT guest_context.create_entity('shop.things', 'shop.shape');
SELECT guest_context.create_dataset('shop.things', now() - interval '1 day');
};
my $rows = q{SELECT 'r' || i AS ref, repeat(md5(i::text), 3) AS note, timestamptz '2020-01-01' + i * interval '1 s' AS modified_at FROM generate_series(1, %s) i};
my $truth = q{SELECT count(*), md5(string_agg(ref || note, ',' ORDER BY ref)) FROM shop.things};

sub crash
{
	my ($node, $sql, $event) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_until(qr/begun/, "SELECT 'begun';\n$sql\n");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%$event%' AND pid <> pg_backend_pid()")
	  or die "nobody is in $event";
	my $pid = $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE query LIKE '%$event%' AND pid <> pg_backend_pid()");
	my $logged = -s $node->logfile;
	kill 'KILL', $pid or die "cannot kill $pid";
	eval { $session->quit };
	# until the postmaster has noticed, it lets sessions in that it will then end
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $logged);
	$node->poll_query_until('postgres', undef, '') or die 'no recovery';
}

for my $level ('minimal', 'replica')
{
	my $node = PostgreSQL::Test::Cluster->new($level);
	$node->init(allows_streaming => $level eq 'replica');
	$node->append_conf('postgresql.conf', "restart_after_crash = on\ntimezone = 'UTC'");
	$node->start;
	$node->safe_psql('postgres', $setup);

	my $standby;
	if ($level eq 'replica')
	{
		$node->backup('base');
		$standby = PostgreSQL::Test::Cluster->new('standby');
		$standby->init_from_backup($node, 'base', has_streaming => 1);
		$standby->start;
	}

	# a loader dies
	crash($node, sprintf(q{SELECT guest_context.load_dataset(1, 'shop.things', $q$%s$q$), pg_sleep(100);},
			sprintf($rows, 1000)), 'load_dataset');
	is($node->safe_psql('postgres', q{SELECT state, (SELECT count(*) FROM shop.things_batch_d1_staging) FROM guest_context.dataset}),
		'loading|0', "$level: after the death of a loader the dataset is loading, and nothing of the load is there");
	my ($status, $stdout, $stderr) = $node->psql('postgres', 'SELECT guest_context.activate_dataset(1)');
	like($stderr, qr/cannot activate dataset 1 while it is loading/, "$level: it cannot be activated");

	# a seal dies
	$node->safe_psql('postgres', sprintf(q{SELECT guest_context.load_dataset(1, 'shop.things', $q$%s$q$)}, sprintf($rows, 20000)));
	crash($node, 'SELECT guest_context.seal_dataset(1), pg_sleep(100);', 'seal_dataset');
	is($node->safe_psql('postgres', q{SELECT state, (SELECT count(*) FROM shop.things_batch_d1_staging), to_regclass('shop.things_batch_d1') IS NULL FROM guest_context.dataset}),
		'loading|20000|t', "$level: after the death of a seal the dataset is as it was");

	# a crash right after the activation
	$node->safe_psql('postgres', q{
		SELECT guest_context.seal_dataset(1, '{"shop.things": 20000}');
		SELECT count(*) FROM guest_context.verify_dataset(1);
		SELECT guest_context.activate_dataset(1);
		SELECT guest_context.apply('shop.things', '{"ref": "r1", "note": "newer", "modified_at": "2021-01-01T00:00:00Z"}')});
	my $expected = $node->safe_psql('postgres', $truth);
	like($expected, qr/^20000\|/, "$level: all rows are there");
	if ($standby)
	{
		$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
		is($standby->safe_psql('postgres', $truth), $expected, "$level: the standby reads the same truth");
		is($standby->safe_psql('postgres', q{SET enable_seqscan = off; SELECT ref, note FROM shop.things WHERE ref IN ('r1', 'r2') ORDER BY 1}),
			$node->safe_psql('postgres', q{SELECT ref, note FROM shop.things WHERE ref IN ('r1', 'r2') ORDER BY 1}),
			"$level: by index too");
	}
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', $truth), $expected, "$level: after a crash the truth is the same");
	is($node->safe_psql('postgres', q{
		SELECT relallvisible = (SELECT count(DISTINCT split_part(ctid::text, ',', 1)) FROM shop.things_batch_d1)
		FROM pg_class WHERE oid = 'shop.things_batch_d1'::regclass}),
		't', "$level: every page that holds rows is all visible");

	# what was left loading can be dropped
	my $left = $node->safe_psql('postgres', q{SELECT guest_context.create_dataset('shop.things', now())});
	$node->safe_psql('postgres', "SELECT guest_context.drop_dataset($left)");
	is($node->safe_psql('postgres', "SELECT state, to_regclass('shop.things_batch_d${left}_staging') IS NULL FROM guest_context.dataset WHERE dataset = $left"),
		'dropped|t', "$level: a loading dataset can be dropped");
	$standby->stop if $standby;
	$node->stop;
}

done_testing();
