# A1, A2, A3, A4, B1, B2, B9, B15, E2: random faults in random order while records keep coming, then the checker.
#
#	SEED=17 RUNS=1 make tap PROVE_TESTS=test/t/039_random_faults.pl		# that run again
#	RUNS=20 FAULTS=25 ...												# more, longer ones; `make check-long`
#
# A seed decides which faults come in which order, and what is produced; not when which process gets the processor.
use strict;
use warnings;

use Changelogs;
use Checker;
use FaultPoints;
use Kafka;
use POSIX ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SEED} // 1;
my $runs = $ENV{RUNS} // 5;
my $faults = $ENV{FAULTS} // 12;
my $partitions = 3;
my $begun = time;
my $kafka = Kafka->start(settings => { 'transaction.abort.timed.out.transaction.cleanup.interval.ms' => 500 });
my $node = changelogs_node($kafka, 'fsync = on', q{log_line_prefix = '%m [%p] %e %q%a '});
app(q{CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz)});
my @points = fault_points();
my @batch_points = grep { !/frame|dataset|leaf|leaves|halt|wait|begun/ } @points;
my ($checker, $entity, $changelog, $topic, @others, %count, $looks, $hits, @done);

# --- records, by a process of its own, until a file says that it is enough

sub start_producer
{
	my ($run, $stop) = @_;
	my $test = $$;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	srand $run;
	my $id = "gc-$$";
	until (-e $stop || getppid() != $test)
	{
		my $records = $checker->records(5 + int rand 200);
		my $how = rand;
		# what a broker that goes away keeps of it is seen in the topic
		eval {
			if ($how < 0.8) { $kafka->produce($topic, $records) }
			else { $kafka->transaction($how < 0.9 ? 'abort' : 'commit', $topic, $records, id => $id, 'transaction.timeout.ms' => 3000) }
		};
		sleep 0.05;
	}
	POSIX::_exit(0);
}

# --- faults

sub pick { return $_[ rand @_ ] }
sub naps { my ($most) = @_; sleep rand $most }
sub pid_of { my ($type) = @_; return eval { sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'guest_context $type' LIMIT 1") } }
sub signal { my ($signal, $pid) = @_; return $pid && $pid =~ /^\d+$/ && kill $signal, $pid }

# Held for a while, during which other things go on.
sub hold
{
	my ($pid, $most) = @_;
	my $while = rand $most;
	return unless $pid && $pid =~ /^\d+$/;
	push @others, aside(sub { signal('STOP', $pid); sleep $while; signal('CONT', $pid) });
}

sub aside
{
	my ($what) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	$what->();
	POSIX::_exit(0);
}

# Whoever is held at a fault point goes on after a while.
sub release
{
	my ($test) = @_;
	while (getppid() == $test)
	{
		my $pid = fault_hit($node, 1) or next;
		sleep rand 3;
		signal('CONT', $pid);
	}
}

# Nobody can start a server while processes of the one before are there.
sub all_gone
{
	my ($name, @pids) = @_;
	my $until = time + 30;
	sleep 0.05 while kill(0, @pids) && time < $until;
	is(join(' ', grep { kill 0, $_ } @pids), '', $name);
}

my %fault = (
	'kill worker' => sub { signal('KILL', pid_of('ingest')) },
	'kill reader' => sub { signal('KILL', eval { reader_pid() }) },
	'kill launcher' => sub { signal('KILL', pid_of('launcher')) },
	'kill maintenance' => sub { signal('KILL', pid_of('maintenance')) },
	'terminate worker' => sub { my $pid = pid_of('ingest'); eval { sql("SELECT pg_terminate_backend($pid)") } if $pid },
	'hold worker' => sub { hold(pid_of('ingest'), 2) },
	'hold reader' => sub { hold(eval { reader_pid() }, 2) },
	'hold broker' => sub { hold($kafka->pid, 3) },
	'stop immediately' => sub { $node->stop('immediate'); naps(1); $node->start },
	# not during recovery from another fault, which PostgreSQL 15 has been seen not to end then
	'stop' => sub {
		$node->poll_query_until('postgres', undef, '');
		$node->stop('fast', fail_ok => 1) or $node->stop('immediate');
		naps(1);
		$node->start;
	},
	'kill postmaster' => sub {
		my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
		my @all = ($postmaster, grep { /^\d+$/ } split(/\n/, qx(pgrep -P $postmaster)), eval { reader_pid() } // ());
		$node->kill9;
		all_gone('no process survives the postmaster, no reader either', @all);
		$node->start;
	},
	'stop broker' => sub { $kafka->stop; naps(1); $kafka->restart },
	'kill broker' => sub { $kafka->kill9; naps(1); $kafka->restart },
	'pause' => sub { try_app("SELECT guest_context.pause('$changelog')"); naps(1); try_app("SELECT guest_context.resume('$changelog')") },
	'seek back' => sub {
		my $offsets = eval { $checker->look } // return;
		my $target = join ',', map { "$_:" . int rand $offsets->{$_} } keys %$offsets or return;
		try_app("SELECT guest_context.pause('$changelog')");
		$checker->{reads}++ if try_app("SELECT guest_context.seek('$changelog', '$target')");
		try_app("SELECT guest_context.resume('$changelog')");
	},
	'alter' => sub { try_app("SELECT guest_context.alter_changelog('$changelog', on_error => 'dead_letter')") },
	'build' => sub { try_app("SELECT guest_context.build_dataset('$entity', activate => true)") },
	'activate' => sub {
		my $dataset = try_app("SELECT max(dataset) FROM guest_context.dataset WHERE root = '$entity'::regclass AND state IN ('sealed', 'retired')");
		try_app("SELECT * FROM guest_context.verify_dataset($dataset); SELECT guest_context.activate_dataset($dataset, force => true)") if $dataset;
	},
	'roll back' => sub { try_app("SELECT guest_context.rollback_dataset('$entity')") },
	'lock' => sub {
		my $while = rand 7;
		push @others, aside(sub { exec 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "BEGIN; LOCK TABLE ${entity}_versions; SELECT pg_sleep($while)" });
	},
	# one that every batch comes past is waited for; another one stays armed
	'point' => sub {
		my $action = pick(qw(kill kill stop error));
		my $any = rand() < 0.3;
		my $point = $any ? pick(@points) : pick(@batch_points);
		fault_arm($node, $action, $point, 1 + int rand 3);
		my $hit = fault_hit($node, $any ? 1 : 5) ? 1 : 0;
		$hits += $hit;
		push @done, "($action '$point'" . ($hit ? ')' : ', not reached)');
	});
my @faults = ((('point') x 10), 'build', 'build', 'kill worker', sort keys %fault);

sub run
{
	my ($run) = @_;
	my $stop = $node->basedir . "/stop$run";
	srand $run;
	$topic = "load$run";
	$entity = "shop.items$run";
	$changelog = "$entity/$topic";
	$kafka->create_topic($topic, partitions => $partitions);
	app("SELECT guest_context.create_entity('$entity', 'shop.item_shape', overlap => '1 second')");
	app("SELECT guest_context.create_changelog('$entity', 'events', '$topic'); SELECT guest_context.build_dataset('$entity', activate => true)");
	$checker = Checker->new($kafka, $node, $entity, $topic, partitions => $partitions, keys => 300);
	my $producer = start_producer($run, $stop);
	my @between;
	@done = ();
	for (1 .. $faults)
	{
		my $name = pick(@faults);
		push @done, $name;
		$count{$name}++;
		$fault{$name}->();
		naps(1);
		eval { $checker->look };
		push @between, eval { $checker->wrong_now };
		$looks++ if !$@;
	}
	note sprintf '%.1f s: seed %d: %s', time - $begun, $run, join ', ', @done;
	open my $file, '>', $stop or die "$stop: $!";
	close $file;
	fault_disarm($node);
	waitpid $_, 0 for $producer, splice @others;
	$node->poll_query_until('postgres', undef, '');
	try_app("SELECT guest_context.resume('$changelog')");
	is(join("\n", @between), '', "seed $run: whenever somebody looked, the view was the merge of what was there");
	$checker->settle("seed $run: every record is there once, and the view is their merge", 120);
	cmp_ok($checker->{records} // 0, '>', 100, "seed $run: of $checker->{records} records");
	$checker->check_log(qr/^$/, qr{
		^FATAL:\ \ (?:the\ database\ system\ is|terminating\ connection|terminating\ background\ worker|could\ not\ accept\ SSL)
		|^ERROR:\ \ (?:dataset\ \d+\ of\ .*\ is\ still\ being\ built|canceling\ statement|no\ earlier\ dataset\ of|cannot\ (?:activate|roll\ back\ to|verify)\ dataset|dataset\ \d+\ has\ not\ been\ verified
			|cannot\ seek\ in|a\ fault\ point\ was\ reached|terminating\ connection|cannot\ .*\ while\ process\ \d+\ has\ written)
	}x);
	diag("seed $run had: ", join ', ', @done) unless Test::More->builder->is_passing;
	app("SELECT guest_context.drop_changelog('$changelog')");
}

my $test = $$;
my $releaser = aside(sub { release($test) });
run($_) for $seed .. $seed + $runs - 1;
note join ', ', map { "$_: $count{$_}" } sort keys %count;
cmp_ok($hits // 0, '>=', $runs, 'fault points were hit');
cmp_ok($looks, '>', 2 * $runs, "$looks looks at the view between faults");
is(sql(q{SELECT count(*) > 0 FROM guest_context.dataset WHERE activated_at IS NOT NULL}), 't', 'datasets have become active meanwhile');
kill 'KILL', $releaser;
waitpid $releaser, 0;
$node->stop;
done_testing();
