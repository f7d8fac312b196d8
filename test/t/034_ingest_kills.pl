# A1, A2, A3, A4, B1, B15, B16: every process is killed, twice, while records come; each record is
# there once at the end, and only what was produced.
use strict;
use warnings;

use Changelogs;
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

my $records = 1_000_000;
my $partitions = 8;
my $kafka = Kafka->start;
my $node = changelogs_node($kafka, 'fsync = on');
app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
});
$kafka->create_topic('load', partitions => $partitions);
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'load')});

# kcat puts them in, in pieces, by itself.
my $producer = fork // die "fork: $!";
if (!$producer)
{
	my $piece = 20_000;
	for my $from (map { $_ * $piece } 0 .. $records / $piece - 1)
	{
		my $text = join '', map { sprintf qq(k%d\t{"ref":"k%d","n":%d,"modifiedAt":"2024-03-24T12:20:01Z"}\n), $_ % 50_000, $_ % 50_000, $_ } $from .. $from + $piece - 1;
		# again when the broker is not there: some are there twice then, at offsets of their own
		sleep 0.2 until eval { $kafka->kcat($text, '-P', '-t', 'load', '-K', "\t", '-X', 'enable.idempotence=true'); 1 };
		sleep 0.2;
	}
	require POSIX;
	POSIX::_exit(0);
}

sub stored { return eval { sql(q{SELECT count(*) FROM shop.items_speed}) } // 0 }
sub grows
{
	my ($name) = @_;
	my $from = stored();
	my $until = time + 60;
	sleep 0.1 while stored() <= $from && $from < $records && time < $until;
	my $now = stored();
	ok($now > $from || $now >= $records, "$name: $from records, and then $now");
}
grows('the start');
for my $round (1, 2)
{
	my $pid = ingest_pid();
	my $reader = reader_pid();
	ok($reader && kill('KILL', $reader), 'the reader is killed');
	grows('after the reader was killed');
	$pid = ingest_pid();
	sql("SELECT pg_terminate_backend($pid)") if $pid;
	my $until = time + 5;
	sleep 0.02 while time < $until && ingest_pid() eq $pid;
	isnt(ingest_pid(), $pid, 'the worker ends when it is told to');
	grows('after that');
	$pid = ingest_pid();
	kill 'KILL', $pid if $pid;
	sleep 0.5;
	$node->poll_query_until('postgres', undef, '');
	grows('after the worker was killed');
	$node->stop('immediate');
	$node->start;
	grows('after an immediate stop');
	$kafka->kill9;
	$kafka->restart;
	grows('after the broker was killed');
}
waitpid $producer, 0;
is($?, 0, 'all was produced');
my %high = map { ($_ => $kafka->high_watermark('load', $_)) } 0 .. $partitions - 1;
my $total = 0;
$total += $_ for values %high;
cmp_ok($total, '>=', $records, 'and is in the topic');
becomes(q{SELECT count(*) FROM shop.items_speed}, $total, 'each record is there', 60);
is(sql(q{SELECT count(*) FROM (SELECT gc_partition, gc_offset FROM shop.items_speed GROUP BY 1, 2 HAVING count(*) > 1) d}), '0', 'once');
is(sql(q{SELECT count(DISTINCT n) FROM shop.items_speed}), $records, 'every one that was produced');
is(sql(q{SELECT string_agg(gc_partition || ':' || high, ',' ORDER BY gc_partition) FROM (SELECT gc_partition, max(gc_offset) + 1 AS high FROM shop.items_speed GROUP BY 1) p}),
	join(',', map { "$_:$high{$_}" } sort { $a <=> $b } keys %high), 'up to the end of each partition');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter}), '0', 'and none is a dead letter');
becomes(q{SELECT state || lag FROM guest_context.status}, 'running0', 'running, nothing behind');

# --- somebody else commits for a partition: one of the two must lose

my $position = sql(q{SELECT to_offset FROM guest_context._position WHERE partition = 0});
sql(qq{INSERT INTO guest_context._ledger (changelog_id, generation, partition, from_offset, to_offset, high)
	SELECT changelog_id, generation, 0, $position, $position + 3, $position + 3 FROM guest_context._changelog});
$kafka->produce('load', [ map { [ "own$_", qq({"ref":"own$_","n":$_,"modifiedAt":"2024-03-24T12:20:01Z"}), undef, 0 ] } 1 .. 5 ]);
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE ref ~ '^own'}, 'own4,own5', 'what another owner has moved past is not written again');
is(sql(q{SELECT string_agg(from_offset - } . $position . q{ || '-' || to_offset - } . $position . qq{, ',' ORDER BY from_offset) FROM guest_context._ledger WHERE partition = 0 AND from_offset >= $position}),
	'0-3,3-5', 'the ledger has no overlap and no hole');
$node->stop;
done_testing();
