# The server's side of connections: what the reader program is given and what it is not, how it
# ends, and where secrets do not go (X1, X4, X10). The program is the stand-in of test/stub_reader, which does
# what the real one does not do on demand.
use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# An installation with the stand-in for the reader program: a server finds its files relative to
# its own program, so a copy of the programs and links to the rest are one.
my ($bin, $lib, $share) = map { my $path = qx(pg_config --$_); chomp $path; $path } qw(bindir pkglibdir sharedir);
my $copy = PostgreSQL::Test::Utils::tempdir();
mkdir $copy;
system('mkdir', '-p', "$copy$lib", dirname("$copy$share")) == 0 or die;
system('mkdir', '-p', dirname("$copy$bin")) == 0 && system('cp', '-a', $bin, "$copy$bin") == 0 or die;
symlink $share, "$copy$share" or die;
symlink $_, "$copy$lib/" . basename($_) for grep { basename($_) !~ /^guest_context_reader$|^bin$/ } glob "$lib/*";
my $program = "$copy$lib/guest_context_reader";
my $stub = dirname(dirname(__FILE__)) . '/stub_reader';
system('cp', $stub, $program) == 0 or die;

my $secret = 'hush-hush-4711';
my $file = PostgreSQL::Test::Utils::tempdir() . '/password';
append_to_file($file, "$secret-file\r\nsecond line\n");

my $node = PostgreSQL::Test::Cluster->new('main', install_path => dirname("$copy$bin"));
$node->init;
$node->append_conf('postgresql.conf', "log_min_messages = debug5\nlog_statement = none\nlog_error_verbosity = verbose\nrestart_after_crash = on\n");
$node->start;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION guest_context;
	CREATE ROLE app LOGIN;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	CREATE SERVER events FOREIGN DATA WRAPPER guest_context
		OPTIONS ("bootstrap.servers" 'k1:9092', "security.protocol" 'SASL_SSL', "sasl.mechanism" 'plain');
	GRANT USAGE ON FOREIGN SERVER events TO app;
	CREATE USER MAPPING FOR app SERVER events OPTIONS ("sasl.username" 'svc', "sasl.password" '$secret');
	CREATE SERVER plain FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" 'k1:9092');
	GRANT USAGE ON FOREIGN SERVER plain TO app;
});

sub report
{
	my $text = eval { slurp_file("$copy$lib/report") } // '';
	unlink "$copy$lib/report";
	return $text;
}

# Sets what the stand-in does.
sub mode
{
	my ($mode) = @_;
	$node->safe_psql('postgres', qq{ALTER SERVER $_ OPTIONS (SET "client.id" '$mode')}) for qw(events plain);
}
$node->safe_psql('postgres', qq{ALTER SERVER $_ OPTIONS (ADD "client.id" 'good')}) for qw(events plain);

sub ask
{
	my ($sql, @settings) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', join("\n", (map { /^\\/ ? $_ : "$_;" } @settings), $sql), extra_params => [ '-U', 'app' ]);
	$err =~ s/^psql:<stdin>:\d+: //mg;
	return $rc == 0 ? $out : $err;
}

# How long until a process is gone, at most a few seconds.
sub gone
{
	my ($pid) = @_;
	for (1 .. 100)
	{
		return 1 unless -e "/proc/$pid" && slurp_file("/proc/$pid/stat") !~ /^\d+ \(.*\) Z/;
		sleep 0.1;
	}
	return 0;
}
my $last_pid;
sub reader_is_gone
{
	my ($what) = @_;
	($last_pid) = report() =~ /^pid (\d+)$/m;
	ok($last_pid && gone($last_pid), $what);
}

# What it is given.
is(ask(q{SELECT step, ok, detail FROM guest_context.check_server('events')}),
	"resolve|t|k1:9092\nconnect|t|k1:9092, k2:9092\ntls|t|the brokers' certificates are verified\nauth|t|PLAIN\nmetadata|t|cluster c1, 2 broker(s), controller k2:9092",
	'check_server, when all is well');
my $report = report();
is(join('|', sort map { /^fd (.*)/ } split /\n/, $report =~ s/socket:\[\d+\]/socket/r), '0 socket|1 /dev/null|2 /dev/null',
	'it has one socket and no other descriptor of the server');
is(join('|', sort map { /^env (.*)/ } split /\n/, $report), 'LC_ALL=C|MALLOC_ARENA_MAX=1|PATH=/usr/bin:/bin|TZ=UTC',
	'an environment of its own');
like($report, qr/^SigBlk:\t0+$/m, 'no signal is blocked');
# perl itself ignores SIGFPE; 32 and 33 are the C library's own, and stay as whoever started the server had them
my ($ignored) = $report =~ /^SigIgn:\t([0-9a-f]+)$/m;
is(hex($ignored) & ~(1 << 7 | 1 << 31 | 1 << 32), 0, 'none is ignored');
like($report, qr/^Max core file size +0 +0 /m, 'no core dumps');
like($report, qr{^cwd /$}m, 'not in the data directory');
like($report, qr{^oom 500$}m, 'it is killed first when memory gets short');
my ($pid) = $report =~ /^pid (\d+)$/m;
like($report, qr{^session $pid$}m, 'a session of its own');
unlike(join("\n", grep { /^(?:arg|env)/ } split /\n/, $report), qr/$secret|svc/, 'no secret among its arguments and in its environment');
like($report, qr/^kind kafka$/m, 'the kind is told');
like($report, qr/^set sasl.password=$secret$/m, 'the secret is told through the socket');
like($report, qr/^set sasl.mechanism=PLAIN$/m, 'the mechanism is told as the library wants it');
ok(-e "$copy$lib/stopped", 'it was asked to stop');
ok(gone($pid), 'and has gone');

# A password from a file: its first line.
$node->safe_psql('postgres', qq{ALTER USER MAPPING FOR app SERVER events OPTIONS (DROP "sasl.password", ADD password_file '$file')});
ask(q{SELECT * FROM guest_context.check_server('events')});
$report = report();
like($report, qr/^set sasl.password=\Q$secret\E-file$/m, 'the first line of the password file is the password');
unlike($report, qr/password_file/, 'the reader does not hear of the file');
$node->safe_psql('postgres', qq{ALTER USER MAPPING FOR app SERVER events OPTIONS (ADD "sasl.password" '$secret', DROP password_file)});

# Answers.
$node->safe_psql('postgres', qq{CREATE USER MAPPING FOR app SERVER plain OPTIONS ("sasl.username" 'svc', "sasl.password" '$secret', "ssl.key.password" '$secret')});
is(ask(q{SELECT * FROM guest_context.check_server('plain')}) =~ s/\|.*//mgr, "resolve\nconnect\nmetadata", 'steps that do not apply are left out');
unlike(report(), qr/sasl|ssl/, 'a server without SASL takes nothing of a mapping');
is(ask(q{SELECT * FROM guest_context.topics('plain')}), "orders|2|5|17\nguests|1|0|0\nodd|1||", 'topics: partitions are added up');
is( ask(q{SELECT partition, record_offset, ts, key, left(value, 7), length(value) FROM guest_context.peek('plain', 'orders')},
		q{SET timezone = 'UTC'}),
	qq(1|42||||\n0|41|2026-11-22 16:42:59.25+00|k|{"a":1}|7\n0|43|2026-11-22 16:43:00+00|\\xff00|\xc3\xa4|1\n0|44|||xxxxxxx|3000000),
	'peek: text as it is, bytes as bytea shows them, a large value');
is(ask(q{SELECT record_offset FROM guest_context.peek('plain', 'orders', 2)}), "43\n44", 'peek: the newest of all partitions');
report();

# Who calls it as somebody else.
$node->safe_psql('postgres', q{
	CREATE FUNCTION public.as_super() RETURNS SETOF text SECURITY DEFINER LANGUAGE sql AS $$ SELECT step FROM guest_context.check_server('events') $$});
like(ask('SELECT public.as_super()'), qr/role "\w+" has no user mapping on server "events"/, 'the mapping is that of the current user');

# What goes wrong.
my %texts = (
	exit => qr/08006: the reader program ended with exit code 3/,
	kill => qr/08006: the reader program was killed by signal 11: Segmentation fault/,
	close => qr/08006: the reader program closed its connection and did not end/,
	garbage => qr/08P01: the reader program sent what is no frame/,
	short => qr/08P01: the reader program sent a frame that is too short/,
	protocol => qr/08P01: the reader program is of another version than the loaded library\nDETAIL:  It speaks protocol 999, the library 1\./,
	columns => qr/08P01: the reader program answered with 1 columns instead of 5/,
	no_topic => qr/42704: topic "orders" does not exist on server "plain"\nHINT:  SELECT \* FROM guest_context\.topics\('plain'\);/,
	denied => qr/42501: server "plain" denies what was asked: Broker: Topic authorization failed\nDETAIL:  The topic is "orders"\./,
	unreadable => qr/22000: could not read from server "plain": bad CRC of \?$/m,
	transient => qr/08006: could not read from server "plain": timed out/,
	failed => qr/08006: could not read from server "plain": fatal: %s%n/,
	hang => qr/08006: server "plain" did not answer within 300 ms\nHINT:  SELECT \* FROM guest_context\.check_server\('plain'\);/);
for my $mode (sort keys %texts)
{
	mode($mode);
	like(ask(q{SELECT * FROM guest_context.peek('plain', 'orders', timeout => '300 ms')}, '\set VERBOSITY verbose'), $texts{$mode}, "$mode: the error");
	reader_is_gone("$mode: the reader is gone");
}
mode('few');
like(ask(q{SELECT * FROM guest_context.check_server('plain')}), qr/an answer that is too short/, 'fewer values than announced');
reader_is_gone('and the reader is gone');
mode('stubborn');
my $began = time;
is(ask(q{SELECT * FROM guest_context.topics('plain')}), 'orders|1|0|1', 'a reader that does not stop');
cmp_ok(time - $began, '<', 5, 'is not waited for long');
reader_is_gone('and is killed');

# check_server says how far it went.
my %steps = (
	refused => "resolve|t|\nconnect|f|refused\ntls||\nauth||\nmetadata||",
	resolve => "resolve|f|Name or service not known\nconnect||\ntls||\nauth||\nmetadata||",
	tls => "resolve|t|\nconnect|t|\ntls|f|SSL handshake failed\nauth||\nmetadata||",
	auth => "resolve|t|\nconnect|t|\ntls|t|\nauth|f|Authentication failed\nmetadata||",
	recovers => "resolve|t|\nconnect|t|\ntls|t|\nauth|t|\nmetadata|t|",
	hang => "resolve|t|\nconnect|f|no answer within 2000 ms\ntls||\nauth||\nmetadata||",
	denied => "resolve|t|\nconnect|t|\ntls|t|\nauth|t|\nmetadata|f|authorization failed");
for my $mode (sort keys %steps)
{
	mode($mode);
	$began = time;
	is( ask(q{SELECT step, ok, CASE WHEN NOT ok THEN substring(detail FROM 'refused|Name .*|SSL handshake failed|Authentication failed|authorization failed|no answer.*') END FROM guest_context.check_server('events', '2 s')}),
		$steps{$mode}, "check_server: $mode");
	cmp_ok(time - $began, '<', 6, "check_server: $mode: in time");
	reader_is_gone("check_server: $mode: the reader is gone");
}

# Cancel, statement_timeout, errors inside of a transaction.
mode('hang');
like(ask(q{SELECT * FROM guest_context.peek('plain', 'orders')}, q{SET statement_timeout = '500 ms'}),
	qr/canceling statement due to statement timeout/, 'statement_timeout');
reader_is_gone('ends the reader');
like( ask(q{DO $$ BEGIN PERFORM * FROM guest_context.peek('plain', 'orders', timeout => '200 ms'); EXCEPTION WHEN connection_failure THEN RAISE NOTICE 'caught'; PERFORM pg_sleep(3); END $$}, 'BEGIN')
		=~ s/^$/caught/r, qr/caught/, 'an error that is caught');
reader_is_gone('ends the reader');

# Many in one session leave nothing in it.
mode('exit');
$node->safe_psql('postgres', q{
	CREATE FUNCTION fails() RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM * FROM guest_context.topics('plain');
		RETURN false;
	EXCEPTION WHEN connection_failure THEN RETURN true;
	END $$});
my $many = $node->background_psql('postgres');
my $many_pid = $many->query_safe('SELECT pg_backend_pid()');
sub left_behind
{
	my $links = join ' ', map { readlink($_) // '' } glob "/proc/$many_pid/fd/*";
	my $sockets = () = $links =~ /socket:/g;
	my $pipes = () = $links =~ /pipe:/g;
	return "$sockets sockets, $pipes pipes, children: " . slurp_file("/proc/$many_pid/task/$many_pid/children")
	  . ', contexts: ' . $many->query_safe(q{SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'guest_context reader'});
}
my $at_first = left_behind();
is($many->query_safe('SELECT bool_and(fails()) FROM generate_series(1, 30)'), 't', 'thirty errors in one statement');
is(left_behind(), $at_first, 'leave no descriptor, child or memory');
mode('good');
is($many->query_safe('SELECT bool_or(fails()) FROM generate_series(1, 30)'), 'f', 'thirty calls');
is(left_behind(), $at_first, 'leave nothing either');
$many->quit;
report();

mode('hang');

# A session that waits, and what becomes of it.
sub waiting
{
	my ($then) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'app' ]);
	$session->query_until(qr/asked/, qq(\\echo asked\nSELECT * FROM guest_context.peek('events', 'orders', timeout => '100 s');\n));
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%peek(''events''%' AND usename = 'app' AND wait_event = 'Extension'}) or die;
	for (1 .. 50) { last if -e "$copy$lib/report"; sleep 0.1 }
	my ($reader) = report() =~ /^pid (\d+)$/m;
	ok($reader && -e "/proc/$reader", "$then: there is a reader");
	return ($session, $reader);
}
my ($session, $reader) = waiting('X10');
my $seen = $node->safe_psql('postgres', q{SELECT string_agg(a::text, ' ') FROM pg_stat_activity a}, extra_params => [ '-U', 'watcher' ]);
unlike($seen, qr/\Q$secret\E/, 'X10: no secret in pg_stat_activity');
like($seen, qr/peek\(''?events/, 'which shows the call');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'});
ok(gone($reader), 'pg_terminate_backend ends the reader');
eval { $session->{run}->finish };

# In the log nothing: neither of what was used nor of what was refused.
$node->psql('postgres', qq{CREATE USER MAPPING FOR watcher SERVER events OPTIONS ("sasl.pasword" '$secret')});
$node->psql('postgres', qq{CREATE USER MAPPING FOR watcher SERVER events OPTIONS ("sasl.password" '$secret', "socket.timeout.ms" '1')});
$node->psql('postgres', qq{ALTER SERVER events OPTIONS (ADD "sasl.password" '$secret')});
$node->psql('postgres', qq{ALTER USER MAPPING FOR app SERVER events OPTIONS (ADD "ssl.key.pem" '$secret')});
my $log = slurp_file($node->logfile);
unlike($log, qr/\Q$secret\E/, 'X10: no secret in the log at debug5');
like($log, qr/option "sasl.password" is a secret and cannot be an option of a server/, 'which has the errors');
unlike($log, qr/TRAP|PANIC|[] ]XX[0-9A-Z]{3}[: ]/, 'and nothing unexpected');

# X3: a dump by a superuser has it, as those of all wrappers, and no other dump.
$node->safe_psql('postgres', 'CREATE ROLE dumper LOGIN IN ROLE pg_read_all_data');
my %dumps = map { $_->[0] => (run_command([ 'pg_dump', '-d', $node->connstr('postgres'), @$_[ 1 .. $#$_ ] ]))[0] } [ 'super' ], [ 'plain', '-U', 'dumper' ];
like($dumps{super}, qr/CREATE USER MAPPING FOR app SERVER events OPTIONS.*\Q$secret\E/s, 'X3: a dump by a superuser has secrets');
like($dumps{plain}, qr/CREATE USER MAPPING FOR app SERVER events;/, 'X3: one by another role has the mapping');
unlike($dumps{plain}, qr/\Q$secret\E/, 'X3: and no secret');

# X4: what the server is told to record it records, and who says a secret then is warned.
my $create = qq{CREATE USER MAPPING FOR watcher SERVER events OPTIONS ("sasl.username" 'svc', "sasl.password" '$secret-2')};
my $drop = 'DROP USER MAPPING FOR watcher SERVER events';
my (undef, undef, $warned) = $node->psql('postgres', "$create; ALTER USER MAPPING FOR watcher SERVER events OPTIONS (SET \"sasl.username\" 'x'); $drop");
is($warned, '', 'X4: no warning where nothing is recorded');
for my $setting (qw(log_statement=ddl log_min_duration_statement=0))
{
	(undef, undef, $warned) = $node->psql('postgres', "SET $setting;\n$create;\nALTER USER MAPPING FOR watcher SERVER events OPTIONS (SET \"sasl.username\" 'x');\n$drop");
	is(() = $warned =~ /WARNING:  a secret in this statement is recorded by \w+/g, 1, "X4: $setting: the statement with the secret warns");
	unlike($warned, qr/\Q$secret\E/, "X4: $setting: without the secret");
}

# The program is not there.
system('mv', $program, "$program.away") == 0 or die;
like(ask(q{SELECT * FROM guest_context.topics('plain')}, '\set VERBOSITY verbose'),
	qr/58P01: could not start the reader program ".*guest_context_reader": No such file or directory/, 'no program');
append_to_file($program, "no program\n");
like(ask(q{SELECT * FROM guest_context.topics('plain')}), qr/could not start the reader program ".*": Permission denied/, 'one that cannot be executed');
unlink $program;
system('mv', "$program.away", $program) == 0 or die;
mode('good');
like(ask(q{SELECT count(*) FROM guest_context.topics('plain')}), qr/^3$/, 'and it is back');
report();

# It does not outlive a session that cannot say goodbye.
mode('hang');
($session, $reader) = waiting('kill -9');
my $backend = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE usename = 'app'});
kill 'KILL', $backend;
ok(gone($reader), 'kill -9 of the session ends the reader');
eval { $session->{run}->finish };
$node->poll_query_until('postgres', undef, '');
($session, $reader) = waiting('immediate stop');
$node->stop('immediate');
ok(gone($reader), 'an immediate stop ends the reader');
eval { $session->{run}->finish };

done_testing();
