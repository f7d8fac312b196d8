# check_server, topics and peek with the real reader program: files, and a broker.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "log_min_messages = debug5\n");
$node->start;
my $directory = PostgreSQL::Test::Utils::tempdir() . '/journal';
mkdir $directory or die;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION guest_context;
	CREATE ROLE app LOGIN;
	CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$directory');
	CREATE SERVER nowhere TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$directory/nowhere');
	GRANT USAGE ON FOREIGN SERVER journal, nowhere TO app;
});

sub ask
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET timezone = 'UTC';\n$sql", extra_params => [ '-U', 'app' ]);
	$err =~ s/^psql:<stdin>:\d+: //mg;
	return $rc == 0 ? $out : $err;
}

# Readers whose parent is a process of this server, or is no more; others may test on this machine, too.
sub parent_of { return (eval { slurp_file("/proc/$_[0]/stat") } // '') =~ /\) [^Z] (\d+)/ ? $1 : 0 }
my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

sub readers
{
	return grep {
		my $parent = (eval { slurp_file("/proc/$_/comm") } // '') eq "guest_context_r\n" ? parent_of($_) : 0;
		$parent == 1 || ($parent && parent_of($parent) == $postmaster)
	} map { m{^/proc/(\d+)$} ? $1 : () } glob '/proc/[0-9]*';
}
my %before = map { $_ => 1 } readers();
sub no_reader_is_left
{
	my ($what) = @_;
	my @left;
	for (1 .. 50) { @left = grep { !$before{$_} } readers(); last unless @left; sleep 0.1 }
	is("@left", '', "$what: no reader is left");
}

# Files.
is(ask(q{SELECT * FROM guest_context.check_server('journal')}), "directory|t|$directory\nmetadata|t|0 partition(s)", 'an empty directory');
is(ask(q{SELECT * FROM guest_context.topics('journal')}), '', 'no topics');
mkdir "$directory/$_" for qw(orders guests);
append_to_file("$directory/orders/0.jsonl", qq({"key":"o1","value":{"ref":"o1"},"ts":1000}\n{"key":"o2","value":null,"ts":2000}\n));
append_to_file("$directory/orders/1.jsonl", qq({"key":"o3","value":"\xc3\xa4"}\n));
append_to_file("$directory/guests/0.jsonl", '');
like(ask(q{SELECT * FROM guest_context.check_server('nowhere')}), qr/^directory\|f\|.*does not name a directory that can be read\nmetadata\|\|$/, 'no directory');
like(ask(q{SELECT * FROM guest_context.topics('nowhere')}), qr/^ERROR:  could not read from server "nowhere": .*does not name a directory that can be read\nHINT:  SELECT \* FROM guest_context.check_server\('nowhere'\);/, 'which is an error of topics');
is(ask(q{SELECT topic, partitions, low, high > 60 FROM guest_context.topics('journal') ORDER BY 1}), "guests|1|0|f\norders|2|0|t", 'topics of files');
is( ask(q{SELECT * FROM guest_context.peek('journal', 'orders') ORDER BY 1, 2}),
	qq(0|0|1970-01-01 00:00:01+00|o1|{"ref":"o1"}\n0|44|1970-01-01 00:00:02+00|o2|\n1|0||o3|"\xc3\xa4"),
	'peek at files');
is(ask(q{SELECT count(*) FROM guest_context.peek('journal', 'orders', 1)}), 1, 'no more than asked for');
like(ask(q{SELECT * FROM guest_context.peek('journal', 'bills')}), qr/^ERROR:  topic "bills" does not exist on server "journal"/, 'no such topic');
no_reader_is_left('files');

# A broker: librdkafka's own mock, in a process of its own, as long as that has something to read.
my ($in, $out) = ('', '');
my $mock = IPC::Run::start([ 'kcat', '-P', '-b', 'mock', '-t', 'unused', '-X', 'test.mock.num.brokers=2' ], '<', \$in, '>&', \$out);
for (1 .. 100) { $mock->pump_nb; last if $out =~ /replaced with .*\n/; sleep 0.1 }
my ($brokers) = $out =~ /replaced with (\S+)/;
ok($brokers, 'there is a broker') or diag($out);
IPC::Run::run([ 'kcat', '-P', '-b', $brokers, '-t', 'orders', '-p', $_, '-K', '=' ], '<', \join('', map { "k$_={\"n\": $_}\n" } 1 .. 3)) or die for 0 .. 1;
$node->safe_psql('postgres', qq{
	CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '$brokers', "security.protocol" 'plaintext');
	CREATE SERVER closed FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '127.0.0.1:1');
	CREATE SERVER all_closed FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '127.0.0.1:1,127.0.0.1:2');
	CREATE SERVER unknown FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'host.invalid:9092');
	CREATE SERVER unknown_all FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'host.invalid:9092,other.invalid:9092');
	CREATE SERVER tls FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '$brokers', "security.protocol" 'SSL');
	GRANT USAGE ON FOREIGN SERVER events, closed, all_closed, unknown, unknown_all, tls TO app;
});
like(ask(q{SELECT * FROM guest_context.check_server('events')}),
	qr/^resolve\|t\|\Q$brokers\E\nconnect\|t\|[\w.]+:\d+, [\w.]+:\d+\nmetadata\|t\|cluster \S+, 2 broker\(s\)(?:, controller [\w.]+:\d+)?$/, 'a broker');
like(ask(q{SELECT * FROM guest_context.topics('events')}), qr/^orders\|4\|0\|6$/m, 'topics of a broker');
is( ask(q{SELECT partition, record_offset, ts > now() - interval '1 hour' AND ts < now() + interval '1 hour', key, value FROM guest_context.peek('events', 'orders') ORDER BY 1, 2}),
	join("\n", map { my $p = $_; map { "$p|" . ($_ - 1) . "|t|k$_|{\"n\": $_}" } 1 .. 3 } 0 .. 1), 'peek at a broker');
is(ask(q{SELECT count(*) FROM guest_context.peek('events', 'orders', 2)}), 2, 'the newest ones');
my $began = time;
like(ask(q{SELECT step, ok, detail FROM guest_context.check_server('closed')}), qr/^resolve\|t\|\S+\nconnect\|f\|.*Connection refused.*\nmetadata\|\|$/, 'nobody listens');
like(ask(q{SELECT step, ok, detail FROM guest_context.check_server('all_closed')}), qr/^resolve\|t\|\S+\nconnect\|f\|.*Connection refused.*\nmetadata\|\|$/, 'nobody listens at several addresses');
like(ask(q{SELECT step, ok, detail FROM guest_context.check_server('unknown')}), qr/^resolve\|f\|.*[Rr]esolve.*\nconnect\|\|\nmetadata\|\|$/, 'a name without an address');
like(ask(q{SELECT step, ok, detail FROM guest_context.check_server('unknown_all')}), qr/^resolve\|f\|.*[Rr]esolve.*\nconnect\|\|\nmetadata\|\|$/, 'several names without an address');
like(ask(q{SELECT step, ok, detail FROM guest_context.check_server('tls')}), # the library says now what failed, and now only that the connection has ended: then nobody says that TLS went well
	qr/^resolve\|t\|\S+\nconnect\|t\|\n(?:tls\|f\|.*SSL.*\nmetadata\|\||tls\|\|\nmetadata\|f\|.+)$/, 'no TLS there');
cmp_ok(time - $began, '<', 25, 'in less than the timeout each');
like(ask(q{SELECT * FROM guest_context.peek('closed', 'orders')}), qr/^ERROR:  could not read from server "closed": .*Connection refused/, 'an error of peek');
no_reader_is_left('a broker');

# A broker that goes silent: cancel does not wait for it.
my ($pid) = map { $_->{PID} // () } @{ $mock->{KIDS} };
kill 'STOP', $pid;
$began = time;
like( ask(q{SET statement_timeout = '700 ms'; SELECT * FROM guest_context.topics('events');}), qr/canceling statement due to statement timeout/, 'statement_timeout');
like(ask(q{SELECT * FROM guest_context.topics('events', '700 ms')}), qr/^ERROR:  (?:server "events" did not answer within 700 ms|could not read from server "events")/, 'timeout');
cmp_ok(time - $began, '<', 8, 'both in time');
no_reader_is_left('a silent broker');
kill 'CONT', $pid;
$mock->kill_kill;

unlike(slurp_file($node->logfile), qr/TRAP|PANIC/, 'nothing unexpected in the log');
$node->stop;
done_testing();
