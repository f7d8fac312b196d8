# B15: what is done with one changelog leaves the others of its server alone: the reader program is the same one, with its
# connections, and reads on.
use strict;
use warnings;

use Changelogs;
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $node = changelogs_node($kafka);
app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
});
$kafka->create_topic($_, partitions => 2) for qw(steady other third);
sub item { my ($ref, $n) = @_; return [ $ref, qq({"ref":"$ref","n":$n,"modifiedAt":"2024-03-24T12:20:01Z"}) ] }
sub count_of { my ($pattern) = @_; return "SELECT count(*) FROM shop.items_speed WHERE ref ~ '$pattern'" }
sub state_of { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.items/$topic'" }
my $once = q{SELECT count(*) FROM (SELECT FROM shop.items_speed GROUP BY gc_source, gc_partition, gc_offset HAVING count(*) > 1) d};

app(qq{SELECT guest_context.create_changelog('shop.items', 'events', '$_')}) for qw(steady other);
$kafka->produce('other', [ map { item("o$_", 1) } 1 .. 20 ]);
$kafka->produce('steady', [ item('s0', 1) ]);
becomes(count_of('^o'), '20', 'two changelogs of a server are read');
becomes(count_of('^s'), '1', 'by one worker');
becomes(state_of($_), 'running', "$_ runs") for qw(steady other);
my $worker = ingest_pid();
my $reader = reader_pid();

# --- records of one keep coming while everything is done with the other

my $records = 20_000;
my $producer = fork // die "fork: $!";
if (!$producer)
{
	for my $from (map { $_ * 1000 } 0 .. $records / 1000 - 1)
	{
		$kafka->kcat(join('', map { qq(k$_\t{"ref":"k$_","n":$_,"modifiedAt":"2024-03-24T12:20:01Z"}\n) } $from + 1 .. $from + 1000), '-P', '-t', 'steady', '-K', "\t");
		sleep 0.3;
	}
	require POSIX;
	POSIX::_exit(0);
}
for my $round (1 .. 3)
{
	app(q{SELECT guest_context.pause('shop.items/other')});
	$kafka->produce('other', [ map { item("p$round-$_", 1) } 1 .. 10 ]);
	my $before = sql(count_of('^k'));
	happens("SELECT count(*) > $before OR count(*) = $records FROM shop.items_speed WHERE ref ~ '^k'", qr/t/, 'the one is read on while the other is paused');
	is(sql(count_of("^p$round")), '0', 'which is not read');
	app(q{SELECT guest_context.resume('shop.items/other')});
	becomes(count_of("^p$round"), '10', 'and goes on with what it has missed');
}
app(q{SELECT guest_context.pause('shop.items/other')});
app(q{SELECT guest_context.seek('shop.items/other', 'earliest')});
app(q{SELECT guest_context.resume('shop.items/other')});
becomes(count_of('^o'), '40', 'seek: all of it is read again');
becomes(count_of('^p'), '60', 'to the end');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'third', on_error => 'halt')});
$kafka->produce('third', [ item('t1', 1) ]);
becomes(count_of('^t'), '1', 'a third changelog');
my ($bad) = $kafka->produce('third', [ [ 'bad', 'no json' ] ]);
happens(state_of('third'), qr/^halted/, 'which halts');
app("SELECT guest_context.skip('shop.items/third', $bad->[0], $bad->[1])");
$kafka->produce('third', [ item('t2', 1) ]);
becomes(count_of('^t'), '2', 'goes on');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'third', name => 'again', mapping => '{"n": null}')});
becomes(count_of('^t'), '4', 'a second one of its topic reads all of it, with another mapping');
app(q{SELECT guest_context.drop_changelog('again')});
$kafka->produce('third', [ item('t3', 1) ]);
becomes(count_of('^t3'), '1', 'and is dropped');
waitpid $producer, 0;
is($?, 0, 'all was produced');
becomes(count_of('^k'), $records, 'each record of the first one is there', 60);
is(sql(q{SELECT count(DISTINCT ref) FROM shop.items_speed WHERE ref ~ '^k'}), $records, 'once');
is(ingest_pid(), $worker, 'the worker is the same all the time');
is(reader_pid(), $reader, 'and so is its reader');
is(sql(q{SELECT count(*) FROM guest_context._ledger l WHERE from_offset >= 0 AND NOT EXISTS (SELECT FROM guest_context._ledger b
	WHERE (b.changelog_id, b.generation, b.partition, b.to_offset) = (l.changelog_id, l.generation, l.partition, l.from_offset))}), '0', 'no hole in the ledger');

# --- an answer that was on its way for a topic that goes on

kill 'STOP', $reader;
sleep 3.7;					# by now the worker has asked it for partitions, as it does every three seconds
app(q{SELECT guest_context.alter_changelog('shop.items/other', filter => '{"$.n": 1}')});
sleep 0.7;
kill 'CONT', $reader;
$kafka->add_partitions('steady', 3);
$kafka->produce('steady', [ [ @{item('added', 1)}, undef, 2 ] ]);
becomes(count_of('^added'), '1', 'a new partition of the steady one is found, though it was asked for when the other one changed', 60);

# --- another reader where it must be

sql(q{ALTER SERVER events OPTIONS (ADD "client.id" 'tests')});
app(q{SELECT guest_context.alter_changelog('shop.items/other', on_error => 'halt')});
my $until = time + 30;
sleep 0.05 while time < $until && (reader_pid() // $reader) == $reader;
isnt(reader_pid(), $reader, 'the next change finds that the server has another option: another reader');
$kafka->produce($_, [ item("z$_", 1) ]) for qw(steady other third);
becomes(count_of('^z'), '3', 'which reads all of them');
is(ingest_pid(), $worker, 'for the same worker');
$node->stop;
done_testing();
