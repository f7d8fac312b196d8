# A1, A2, A3, B9, B15, C1, C14, G1: a process dies at every fault point that the source has, once. After each, every record
# is a row or a dead letter, once, the view is the merge of all records, and stored offsets have only grown.
use strict;
use warnings;

use Changelogs;
use Checker;
use FaultPoints;
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

srand($ENV{SEED} // 1);
my $kafka = Kafka->start;
my $node = changelogs_node($kafka);
app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape', overlap => '1 second');
	SELECT guest_context.create_entity('shop.others', 'shop.item_shape');
});
$kafka->create_topic('load', partitions => 2);
my $checker = Checker->new($kafka, $node, 'shop.items', 'load');
my @points = fault_points();
my %tried;
my $begun = time;

sub produce { $kafka->produce('load', $checker->records(40)) }

# The next process that comes past this point dies.
my ($armed, $log_at);
sub arm
{
	my ($point, $action) = @_;
	$log_at = -s $node->logfile;
	$armed = $point;
	fault_arm($node, $action // 'kill', $point, $point =~ /frame R/ ? 15 : 1);
}

# It has, and the server is there again.
sub struck
{
	my ($name) = @_;
	my $pid = fault_hit($node);
	$name = defined $name ? "$armed: $name" : $armed;
	$tried{$armed} = 1;
	ok($pid, "$name: a process came past") or return;
	return if $armed =~ /^reader/;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_at);
	$node->poll_query_until('postgres', undef, '') or die 'no recovery';
}

# Again and again until it succeeds.
sub until_done
{
	my ($sql) = @_;
	my $until = time + 60;
	my $error = '';
	while (time < $until)
	{
		return if eval { app($sql); 1 };
		$error = $@;
		sleep 0.2;
	}
	die "in vain: $error";
}

# Another topic, its changelog, and a name.
my $extra = 0;
sub extra
{
	my ($records, $more) = @_;
	my $topic = 'extra' . ++$extra;
	$kafka->create_topic($topic);
	$kafka->produce($topic, [ map { [ "$topic-$_", $_ eq 'bad' ? 'no json' : qq({"ref":"$topic-$_","n":1,"modifiedAt":"2024-03-24T12:20:01Z"}) ] } @$records ]);
	until_done("SELECT guest_context.create_changelog('shop.others', 'events', '$topic'" . ($more // '') .
		") WHERE NOT EXISTS (SELECT FROM guest_context.changelog WHERE topic = '$topic')");
	return $topic;
}
sub others { my ($topic) = @_; return "SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.others WHERE ref ~ '^$topic-'" }
sub status { my ($topic) = @_; return "SELECT state FROM guest_context.status WHERE changelog = 'shop.others/$topic'" }
sub forget { my ($topic) = @_; until_done("SELECT guest_context.drop_changelog(changelog) FROM guest_context.changelog WHERE topic = '$topic'") }

# --- ingest: a batch, and what reader and worker say to each other while it runs

app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'load')});
$kafka->transaction('abort', 'load', $checker->records(10));
produce();
$checker->settle('before any fault');
my @batch = ('before rows', 'rows written', 'before a dead letter', 'dead letter written', 'row of the ledger written',
	'before the commit of a batch', 'batch committed');
for my $point (@batch, grep { /frame [RPW]/ } @points)
{
	for my $action ($point =~ /^reader/ ? 'kill' : ('kill', 'error'))
	{
		arm($point, $action);
		produce();
		if ($action eq 'kill') { struck() }
		else { ok(fault_hit($node), "$point: a process came past, and has an error") }
		$checker->settle("$point, $action: all is there once");
	}
}

# --- what they say when a worker begins, which it does when its reader is gone

for my $point (grep { /frame [ACHNQSV]|half/ } @points)
{
	my $reader;
	my $until = time + 30;
	sleep 0.1 until $reader = reader_pid() or time > $until;
	arm($point);
	produce();
	kill 'KILL', $reader if $reader;
	struck();
	$checker->settle("$point: all is there once");
}
arm('reader: frame X taken');
produce();
app(q{SELECT guest_context.pause('shop.items/load')});
struck();
app(q{SELECT guest_context.resume('shop.items/load')});
$checker->settle('reader: frame X taken: all is there once');
note sprintf '%.1f s: frames', time - $begun;

# --- readers that die three times with a partition at the same offset, the first time when it had nothing to read

{
	my $topic = extra([ 'a' ]);
	becomes(others($topic), "$topic-a", 'a topic is read to its end');
	until_done("SELECT guest_context.pause('shop.items/load')");
	kill 'KILL', reader_pid() // die 'no reader';
	$armed = 'reader: frame S taken';
	fault_arm($node, 'stop', $armed);
	my $pid = fault_hit($node) // die 'no reader comes';
	$kafka->produce($topic, [ [ 'b', qq({"ref":"$topic-b","n":1,"modifiedAt":"2024-03-24T12:20:01Z"}) ] ]);
	kill 'KILL', $pid;
	fault_arm($node, 'kill', $armed);    # the next one comes a moment later
	struck('again, when there is something');
	becomes(others($topic), "$topic-a,$topic-b", 'deaths that have nothing to do with what is read do not halt it', 60);
	until_done("SELECT guest_context.resume('shop.items/load')");
	forget($topic);
}

# --- a broker that is gone, whose loss is logged, told and noted; a topic that is

$kafka->kill9;
for my $point ('before the commit of a wait', grep { /frame L/ } @points)
{
	arm($point);
	my $reader = eval { reader_pid() };    # it may have come past already
	kill 'KILL', $reader if $reader;
	struck();
}
$kafka->restart;
produce();
$checker->settle('a broker that was gone: all is there once');
for my $point (grep { /frame T/ } @points)
{
	my $topic = extra([ 'a' ]);
	becomes(others($topic), "$topic-a", "$point: a topic is read");
	arm($point);
	$kafka->delete_topic($topic);
	struck();
	forget($topic);
	$checker->settle("$point: all is there once");
}
note sprintf '%.1f s: broker', time - $begun;

# --- partitions, halts

{
	arm('partition begun');
	my $topic = extra([ 'a', 'b' ]);
	struck();
	becomes(others($topic), "$topic-a,$topic-b", 'a partition that was begun is read');
}
for my $point (grep { /halt/ } @points)
{
	arm($point);
	my $topic = extra([ 'a', 'bad', 'c' ], q{, on_error => 'halt'});
	struck();
	becomes(status($topic), 'halted', "$point: halted");
	becomes(others($topic), "$topic-a", "$point: what came before is there");
	until_done("SELECT guest_context.skip('shop.others/$topic', 0, 1, 'a test')");
	becomes(others($topic), "$topic-a,$topic-c", "$point: and what came behind, when it is skipped");
}
produce();
$checker->settle('halts of another changelog: all is there once');

# --- a topic that is read again beside its changelog, up to where that is

$kafka->create_topic('again', partitions => 2);
$kafka->produce('again', [ map { [ "again-$_", qq({"ref":"again-$_","n":1,"modifiedAt":"2024-03-24T12:20:01Z"}), undef, $_ > 0 ? 1 : 0 ] } 0 .. 20_000 ]);
app(q{SELECT guest_context.create_changelog('shop.others', 'events', 'again')});
becomes(q{SELECT count(*) FROM shop.others WHERE ref ~ '^again'}, '20001', 'a topic with a short partition and a long one');
for my $point (grep { /frame U/ } @points)
{
	arm($point);
	try_app(q{SELECT guest_context.replay('shop.others/again', '-infinity')});
	struck();
	until_done(q{SELECT guest_context.replay('shop.others/again', '-infinity')});
	is(sql(q{SELECT count(*) FROM shop.others WHERE ref ~ '^again'}), '20001', "$point: it is as it was");
}

# --- leaves and datasets; each verb again until it is done

my $root = q{'shop.items'};
my $leaf = sql(q{SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'shop.items_speed'::regclass});
app("DROP TABLE $leaf");
arm('speed leaves made');
try_app(q{SELECT guest_context.run_maintenance()});
struck();
until_done(q{SELECT guest_context.run_maintenance()});
is(sql("SELECT to_regclass('$leaf')"), $leaf, 'the leaf is made');

sub active { return sql(q{SELECT coalesce(max(dataset), 0) FROM guest_context.dataset WHERE state = 'active'}) }
for my $point (grep { /built/ } @points)
{
	produce();
	$checker->settle("$point: before");
	my $before = active();
	arm($point);
	sleep 1.1;    # the window begins a second before, and what has come so far is to lie in the dataset
	try_app("SELECT guest_context.build_dataset($root, activate => true)");
	struck();
	produce();
	becomes(qq{SELECT dataset > $before FROM guest_context.dataset WHERE state = 'active'}, 't', "$point: it is built and active", 90);
	$checker->settle("$point: all is there once");
}
my $dataset;
for my $point (grep { /sealed/ } @points)
{
	$dataset = app("SELECT guest_context.create_dataset($root, now() - interval '1.1 seconds')");
	app("SELECT guest_context.load_dataset($dataset, $root, 'SELECT ref, n, modified_at FROM shop.items')");
	arm($point);
	try_app("SELECT guest_context.seal_dataset($dataset)");
	struck();
	is(sql("SELECT state FROM guest_context.dataset WHERE dataset = $dataset"), 'loading', "$point: it is as it was");
	until_done("SELECT guest_context.seal_dataset($dataset)");
	$checker->settle("$point: all is there once");
}
for my $verb ("activate_dataset($dataset, force => true)", "rollback_dataset($root)")
{
	my $before = active();
	until_done("SELECT * FROM guest_context.verify_dataset($dataset)") if $verb =~ /^activate/;
	arm('active dataset switched');
	try_app("SELECT guest_context.$verb");
	struck($verb);
	is(active(), $before, "$verb: what was active still is");
	produce();
	until_done("SELECT guest_context.$verb");
	isnt(active(), $before, "$verb: and then another one");
	$checker->settle("$verb: all is there once");
}
for my $point (grep { /^before a leaf|^leaf d/ } @points)
{
	my $gone = app("SELECT guest_context.create_dataset($root, now())");
	app("SELECT guest_context.load_dataset($gone, $root, 'SELECT ref, n, modified_at FROM shop.items'), guest_context.seal_dataset($gone)");
	arm($point);
	try_app("SELECT guest_context.drop_dataset($gone)");
	try_app(q{SELECT guest_context.run_maintenance()});
	struck();
	until_done("SELECT 1 / (to_regclass('shop.items_batch_d$gone') IS NULL)::int FROM guest_context.run_maintenance()");
	is(sql("SELECT to_regclass('shop.items_batch_d$gone') IS NULL"), 't', "$point: the leaf is gone");
}
produce();
$checker->settle('leaves that were dropped: all is there once');

is(join("\n", grep { !$tried{$_} } @points), '', 'every fault point of the source was tried');
cmp_ok($checker->{records}, '>', 1000, 'with many records');
$checker->check_log(qr{^changelog "shop\.others/extra\d+" has halted: payload is not }, qr{
	^FATAL:\ \ the\ database\ system\ is\ (?:in\ recovery\ mode|starting\ up|not\ yet\ accepting)
	| ^ERROR:\ \ could\ not\ replay\ changelog\ .*:\ the\ reader\ was\ killed
}x);
note sprintf '%.1f s', time - $begun;
$node->stop;
done_testing();
