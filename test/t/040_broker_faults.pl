# A2, B6, B10, B13, B16, B17, B18, B19, B20, B21, B24, D7: what a broker's log may hold and what may become of it, as an
# ingest worker meets it: the changelog halts at the offset and names the call that goes on, or waits and goes on
# by itself; the other changelogs go on.
use strict;
use warnings;

use Changelogs qw(:DEFAULT :items);
use Kafka;
use Kafka::Log;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start(users => { alice => 'secret' });
my $node = changelogs_node($kafka, q{guest_context.reader_memory = '64MB'}, 'log_min_messages = debug1');
items_entity();
my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

# Another changelog, whose record is always read, whatever the others meet.
$kafka->create_topic('calm');
changelog('calm');
my $calm = 0;
sub others_run { my ($name) = @_; $calm++; $kafka->produce('calm', [ item('calm', $calm) ]); return shows('calm', $calm, "the others go on: $name", 60) }

# Runs the call that a halted changelog's message names, up to its semicolon or comma.
sub run_hint
{
	my ($topic) = @_;
	my ($call) = sql(status($topic)) =~ /(SELECT guest_context\.\w+\(.*?'reason'\))/;
	ok($call, "$topic: the message names a call") or return;
	note $call;
	app($call);
}

# --- batches that are broken on the broker's disk (B17, B18) or cannot be unpacked (A2, B19, B20, B21)

my @packed = qw(gzip lz4 snappy zstd);
my @broken = ('crc', 'spoiled', @packed);
sql(q{CREATE SERVER small FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '} . $kafka->bootstrap . q{', "receive.message.max.bytes" '1000000');
	GRANT USAGE ON FOREIGN SERVER small TO app});
$kafka->create_topic($_) for @broken, 'odd', 'shorter', 'diverged';
$kafka->create_topic('large', config => { 'max.message.bytes' => 4_000_000 });
for my $topic (@broken, 'odd')
{
	$kafka->produce($topic, [ item("$topic-first", 1) ]);
	changelog($topic);
}
shows("$_-first", 1, "$_: read") for @broken, 'odd';
app("SELECT guest_context.pause('shop.items/$_')") for 'crc', @packed;
lap('topics');
$kafka->stop;
my $crc = Kafka::Log->new($kafka, 'crc', 0);
$crc->append([ map { [ $_, 'broken', item('broken', $_)->[1] ] } 0 .. 2 ]);
$crc->flip_crc(2);
my $spoiled = Kafka::Log->new($kafka, 'spoiled', 0);    # whose worker has read all, and waits for more
$spoiled->append([ [ 0, 'broken', item('broken', 1)->[1] ] ]);
$spoiled->spoil(1);
Kafka::Log->new($kafka, $_, 0)->bomb($_, 192_000_000) for @packed;
my $odd = Kafka::Log->new($kafka, 'odd', 0);
my @mapped = map { [ item("odd$_", 1)->[1], $_ ] } 0 .. 3;
$odd->append([ [ 0, 'odd0', $mapped[0][0] ] ], time => -1);
$odd->append([ [ 0, 'odd1', $mapped[1][0] ] ], time => 4102444800000);
$odd->append([ [ 0, 'odd2', $mapped[2][0] ], [ 3, 'odd3', $mapped[3][0] ] ], last => 9);
$kafka->restart;
$kafka->produce($_, [ item("$_-last", 1) ]) for @broken;
lap('disk changed');
app("SELECT guest_context.resume('shop.items/$_')") for 'crc', @packed;
for my $topic (@broken)
{
	my $where = $topic eq 'crc' ? qr/the first offset behind it that can be read is 4:\nSELECT guest_context.skip\('shop.items\/crc', 0, 3,/ :
	  qr/SELECT guest_context.skip\('shop.items\/$topic', 0, 1,/;
	happens(status($topic), qr/^halted unreadable: .*\(partition 0 offset 1\)\n$where/, "$topic: halted at the batch, and told how far it goes", 120);
	others_run($topic);
	run_hint($topic);
	shows("$topic-last", 1, "$topic: read on behind it", 60);
	lap($topic);
}
becomes(status($_), 'running', "$_: running", 60) for @broken;
is(sql(q{SELECT string_agg(DISTINCT format('%s %s-%s', c.topic, g.from_offset, g.to_offset), ', ' ORDER BY format('%s %s-%s', c.topic, g.from_offset, g.to_offset))
	FROM guest_context._gap g JOIN guest_context._changelog c USING (changelog_id)}),
	'crc 1-4, gzip 1-2, lz4 1-2, snappy 1-2, spoiled 1-2, zstd 1-2', 'what was left out is known');

# a message that is larger than may be: the option to raise is named, and raising it is enough

$kafka->produce('large', [ item('large-first', 1) ]);
app(q{SELECT guest_context.create_changelog('shop.items', 'small', 'large')});
shows('large-first', 1, 'large: read');
my ($key, $value) = @{ item('large', 1) };
$value =~ s/}$/,"pad":"@{[ 'x' x 3_000_000 ]}"}/;
$kafka->produce('large', [ [ $key, $value ], item('large-last', 1) ], 'message.max.bytes' => 4_000_000);
happens(status('large'), qr/^halted unreadable: .*receive\.message\.max\.bytes.*\(partition 0 offset 1\)(?s:.*)skip\('shop.items\/large', 0, 1,/, 'a message above the limit: halted, with the option to raise', 90);
others_run('large');
sql(q{ALTER SERVER small OPTIONS (SET "receive.message.max.bytes" '100000000')});
app(q{SELECT guest_context.resume('shop.items/large')});
shows('large-last', 1, 'with a higher limit it goes on', 60);
shows('large', 1, 'and nothing is left out');
app("SELECT guest_context.drop_changelog('shop.items/$_')") for @broken, 'large';
lap('large');

# --- B24, B10: records without a time, or of a far time, and gaps, also at the end

becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE ref ~ '^odd[0-9]'}, 'odd0,odd1,odd2,odd3', 'records of no time, of the year 2100, and between gaps');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref ~ '^odd[0-9]' AND modified_at < '2025-01-01'}), '4', 'their versions are those of the payload');
becomes(q{SELECT concat_ws(' ', state, lag) FROM guest_context.status WHERE changelog = 'shop.items/odd'}, 'running 0', 'a gap at the end: nothing is behind');
is(app(q{SELECT next_offset FROM guest_context.offsets('shop.items') WHERE topic = 'odd'}), '13', 'the position lies behind it');
is($kafka->high_watermark('odd'), 13, 'as the end does');
is(app(q{SELECT guest_context.wait_for('shop.items', 'odd', 0, 12)}), 't', 'wait_for an offset in the gap');
$kafka->produce('odd', [ item('odd-more', 1) ]);
shows('odd-more', 1, 'and on behind it');
$kafka->create_topic('compacted', config => { 'cleanup.policy' => 'compact', 'segment.ms' => 100, 'min.cleanable.dirty.ratio' => 0.001, 'max.compaction.lag.ms' => 100 });
$kafka->produce('compacted', [ map { [ "c$_", item("c$_", 1)->[1] ] } map { $_ % 3 } 1 .. 30 ]);
sleep 0.3;
$kafka->produce('compacted', [ item('c9', 1) ]);
my $until = time + 60;
my @left;
do { sleep 0.5; @left = $kafka->consume('compacted') } while @left > 4 && time < $until;
is(join(',', map { $_->{key} } @left), 'c1,c2,c0,c9', 'the broker has compacted');
changelog('compacted');
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE ref ~ '^c[0-9]'}, 'c0,c1,c2,c9', 'a compacted topic is read');
is(app(q{SELECT guest_context.wait_for('shop.items', 'compacted', 0, 3)}), 't', 'wait_for an offset that is gone');
becomes(q{SELECT concat_ws(' ', state, lag) FROM guest_context.status WHERE changelog = 'shop.items/compacted'}, 'running 0', 'nothing is behind');
lap('gaps');

# --- B6: the end of a log is lost, and others are written in its place

my %longer = (shorter => 0, diverged => 20);
for my $topic (sort keys %longer)
{
	$kafka->produce($topic, [ item("$topic-$_", 1) ]) for 0 .. 9;
	changelog($topic);
}
shows("$_-9", 1, "$_: read") for sort keys %longer;
$kafka->stop;
Kafka::Log->new($kafka, $_, 0)->cut(6) for keys %longer;
$kafka->restart;
for my $topic (sort keys %longer)
{
	$kafka->produce($topic, [ map { item("$topic-new", $_) } 1 .. $longer{$topic} ]) if $longer{$topic};
	happens(status($topic), qr/^halted topic replaced: .*\nSELECT guest_context.accept_topic\('shop.items\/$topic'/, "a log that has lost its end, $topic: halted", 60);
	others_run($topic);
	run_hint($topic);
	$kafka->produce($topic, [ item("$topic-after", 1) ]);
	shows("$topic-after", 1, "$topic: accepted");
}
shows('diverged-new', 20, 'what was written in its place is read');
lap('lost its end');

# --- SCRAM: what an old library cannot is told as that, not as a wrong password

sql(q{CREATE SERVER scram FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '} . $kafka->bootstrap('SASL_PLAINTEXT') . q{',
	"security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'SCRAM-SHA-512');
	GRANT USAGE ON FOREIGN SERVER scram TO app;
	CREATE USER MAPPING FOR app SERVER scram OPTIONS ("sasl.username" 'alice', "sasl.password" 'secret')});
app(q{SELECT guest_context.create_changelog('shop.items', 'scram', 'odd', name => 'shop.items/scram')});
happens(status('scram'), qr/^waiting the server refuses the login: .*librdkafka before 2.6.1 cannot log in by SCRAM at Kafka 4|^running/, 'SCRAM', 60);
my ($library) = qx(kcat -V) =~ /librdkafka (\d+\.\d+\.\d+)/ or die 'kcat does not say its library';
my $able = version->parse($library) >= version->parse('2.6.1');
is(sql(q{SELECT state FROM guest_context.status WHERE changelog = 'shop.items/scram'}), $able ? 'running' : 'waiting', "with librdkafka $library");
app(q{SELECT guest_context.drop_changelog('shop.items/scram')});

# --- D7: the clock of a producer steps back

$kafka->create_topic('clock');
changelog('clock');
my ($later, $sooner) = map { qq({"ref":"clock","n":$_->[0],"modifiedAt":"2024-03-24T$_->[1]:00Z"}) } [ 1, '13:00' ], [ 2, '12:59' ];
$kafka->produce('clock', [ [ 'clock', $later ], [ 'clock', $sooner ] ], 'linger.ms' => 100);
becomes(q{SELECT next_offset FROM guest_context.offsets('shop.items') WHERE topic = 'clock'}, '2', 'both records of a clock that steps back are read');
is(sql(q{SELECT n FROM shop.items WHERE ref = 'clock'}), '1', 'the version decides, not the order of writing: producers are trusted with their clocks');
$kafka->produce('clock', [ [ 'clock', q({"ref":"clock","n":3,"modifiedAt":"2024-03-24T13:01:00Z"}) ] ]);
shows('clock', 3, 'and when the clock is ahead again');
lap('clock');

# --- B13: a topic that goes while it is read

$kafka->create_topic('going');
$kafka->produce('going', [ item('going', 1) ]);
changelog('going');
shows('going', 1, 'going: read');
$kafka->delete_topic('going');
happens(status('going'), qr/^waiting .*(?:does not exist|[Uu]nknown topic)/, 'a topic that was deleted is waited for', 60);
others_run('a deleted topic');
app(q{SELECT guest_context.drop_changelog('shop.items/going')});

# --- B16: a worker sleeps while another one takes its place, and then wants to commit what it had

$kafka->create_topic('owned', partitions => 2);
changelog('owned');
$kafka->produce('owned', [ at(0, 'own', 1), at(1, 'own', 2) ]);
shows('own', 2, 'owned: read');
my $first = ingest_pid_of('events');
kill 'STOP', $first or die "cannot stop $first: $!";
$kafka->produce('owned', [ map { at($_ % 2, "own$_", $_) } 1 .. 100 ]);
sql(q{CREATE SERVER twin FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '} . $kafka->bootstrap . q{');
	GRANT USAGE ON FOREIGN SERVER twin TO app; ALTER SERVER events RENAME TO before; ALTER SERVER twin RENAME TO events});
app(q{SELECT guest_context.pause('shop.items/calm'); SELECT guest_context.resume('shop.items/calm')});    # calls maintenance
becomes(q{SELECT count(*) FROM shop.items WHERE ref ~ '^own[0-9]'}, '100', 'another worker reads on', 60);
my $second = ingest_pid_of('events', $first);
isnt($second, $first, 'which is not the one that sleeps');
kill 'CONT', $first;
becomes("SELECT count(*) FROM pg_stat_activity WHERE pid = $first", '0', 'the one before finds nothing to do and ends', 60);
is(sql(q{SELECT count(*) FROM shop.items_speed WHERE ref ~ '^own[0-9]'}), '100', 'exactly one has committed');
is(sql(q{SELECT count(*) FROM guest_context._ledger l JOIN guest_context._changelog c USING (changelog_id) WHERE c.topic = 'owned' AND l.from_offset >= 0
	AND NOT EXISTS (SELECT FROM guest_context._ledger b WHERE b.changelog_id = l.changelog_id AND b.partition = l.partition AND b.to_offset = l.from_offset)}), '0', 'the ledger has no hole');
others_run('the second owner');
lap('two owners');

# --- the end: no reader outlives its worker

my @readers = map { split /\n/, qx(pgrep -P $_ -f guest_context_reader) } split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'guest_context ingest%'});
cmp_ok(scalar @readers, '>=', 1, 'there are readers');
is(sql(q{SELECT count(*) FROM (SELECT gc_source, gc_partition, gc_offset FROM shop.items_speed s GROUP BY 1, 2, 3, ref HAVING count(*) > 1) d}), '0', 'every record once');
$node->stop;
$until = time + 20;
sleep 0.1 while time < $until && grep { kill 0, $_ } @readers;
is(scalar(grep { kill 0, $_ } @readers), 0, 'and none at the end');
done_testing();

# The worker of a server, which holds a lock on it; not that one.
sub ingest_pid_of
{
	my ($server, $but) = @_;
	$but //= 0;
	return sql(qq{SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.classid = (SELECT oid FROM pg_foreign_server WHERE srvname = '$server') AND l.pid <> $but AND a.backend_type LIKE 'guest_context ingest%' LIMIT 1});
}
