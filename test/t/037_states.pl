# A4, A5, A10, A11, E8, E9, F7: the status is true, whatever becomes of the worker: "running" only while there is one. It leaves
# for whoever wants the database, and comes back by itself; nothing is lost or doubled, and the log has a line for each change
# and no more.
use strict;
use warnings;

use Changelogs;
use Kafka;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# --- A11: a server of its own, whose broker is down while all else is tried here

my $kafka = Kafka->start;
my $lonely = PostgreSQL::Test::Cluster->new('lonely');
$lonely->init;
$lonely->append_conf('postgresql.conf', "shared_preload_libraries = 'guest_context'\nautovacuum = off\n");
$lonely->start;
my $bootstrap = $kafka->bootstrap;
$kafka->create_topic($_) for qw(x y);
$lonely->safe_psql('postgres', qq{
	CREATE EXTENSION guest_context;
	CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '$bootstrap');
	CREATE SCHEMA shop;
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
	SELECT guest_context.create_changelog('shop.items', 'events', 'x', name => 'x');
	SELECT guest_context.create_changelog('shop.items', 'events', 'y', name => 'y');
});
my $states = q{SELECT string_agg(state, ',') FROM guest_context.status};
$lonely->poll_query_until('postgres', $states, 'running,running') or die 'A11: they do not run';
my $lonely_since = -s $lonely->logfile;
my $down_since = time;
$kafka->stop;

my $journal = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $journal;
my $node = changelogs_node($journal);
my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

# Records at the end of a topic, numbered from where it ends.
my %last;
sub append
{
	my ($topic, $count) = @_;
	mkdir "$journal/$topic";
	open(my $f, '>>', "$journal/$topic/0.jsonl") or die "$topic: $!";
	for (1 .. $count // 1)
	{
		my $n = ++$last{$topic};
		print $f qq({"key":"$topic$n","value":{"ref":"$topic$n","n":$n,"modifiedAt":"2024-03-24T12:20:01Z"}}\n);
	}
	close($f) or die "$topic: $!";
	return;
}
sub status { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = '$topic'" }
sub read_all { my ($topic, $name) = @_; return becomes("SELECT count(*) || '/' || count(DISTINCT ref) FROM shop.items_speed WHERE ref ~ '^$topic\\d'", "$last{$topic}/$last{$topic}", $name, 90) }
sub log_end { return -s $node->logfile }
sub logged { my ($from, $pattern) = @_; my @lines = grep { /$pattern/ } split /\n/, slurp_file($node->logfile, $from); return scalar @lines }
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'};
sub reload { my (%setting) = @_; sql(join '', map { "ALTER SYSTEM SET $_ = '$setting{$_}';" } sort keys %setting); $node->reload }

app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
});
append('a');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'a', name => 'a')});
becomes(status('a'), 'running', 'a worker reads: running');

# --- what resume does to one that waits, and what the log has of it

my $from = log_end();
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'later', name => 'later')});
happens(status('later'), qr/^waiting topic "later": no such topic\nSELECT \* FROM guest_context.topics\('events'\);\z/, 'a topic that is not there: waiting');
app(q{SELECT guest_context.resume('later')});
happens(status('later'), qr/^waiting topic "later": no such topic\nSELECT \* FROM guest_context.topics\('events'\);\z/, 'and it still says so when it is resumed') for 1 .. 2;
app(q{SELECT guest_context.pause('later'); SELECT guest_context.resume('later')});
happens(status('later'), qr/^waiting topic "later": no such topic\nSELECT \* FROM guest_context.topics\('events'\);\z/, 'or paused and resumed at once');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'});
happens(status('later'), qr/^waiting no worker reads it now/, 'without a worker: waiting');
becomes(status('a'), 'running', 'another one comes by itself');
happens(status('later'), qr/^waiting topic "later": no such topic\nSELECT \* FROM guest_context.topics\('events'\);\z/, 'and knows what is the matter');
sleep 2;
is(logged($from, qr/changelog "later" waits/), 3, 'the log has one line for each time that it began to wait');
is(logged($from, qr/changelog "later" goes on/), 0, 'and none of going on');
append('later');
read_all('later', 'it goes on when the topic comes');
becomes(status('later'), 'running', 'running');
is(logged($from, qr/changelog "later" goes on/), 1, 'which the log has too');
app(q{SELECT guest_context.drop_changelog('later')});
lap('resume');

# --- F7: the server's switch

reload('guest_context.ingest_enabled' => 'off');
happens(status('a'), qr/^waiting guest_context.ingest_enabled is off:\nALTER SYSTEM/, 'F7: ingest_enabled = off: waiting, with what to run');
becomes($workers, '0', 'F7: and nobody reads');
append('a');
my $report = sql(q{SELECT * FROM guest_context.run_maintenance()});
is(sql($workers), '0', 'F7: not after maintenance either');
like(sql(status('a')), qr/^waiting guest_context.ingest_enabled is off/, 'F7: waiting all the time');
reload('guest_context.ingest_enabled' => 'on');
read_all('a', 'F7: on: it goes on');
becomes(status('a'), 'running', 'F7: running');
lap('F7');

# --- the server is dropped

sql('DROP SERVER events');
happens(status('a'), qr/^waiting server "events" does not exist:\nCREATE SERVER, or SELECT guest_context\.drop_changelog/, 'a dropped server: waiting, with what to run');
becomes($workers, '0', 'without a worker');
append('a');
sql(qq{CREATE SERVER events TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$journal'); GRANT USAGE ON FOREIGN SERVER events TO app});
happens(status('a'), qr/^waiting no worker reads it now/, 'a server of that name again: a worker comes soon');
sql(q{SELECT * FROM guest_context.run_maintenance()});
read_all('a', 'and goes on');
lap('server');

# --- the catalogue is of another version than the library

$from = log_end();
sql(q{ALTER TABLE guest_context._changelog_state RENAME COLUMN changes TO changed; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'});
$node->wait_for_log(qr/reading changelogs begins again: column \S+ does not exist/, $from);
happens(status('a'), qr/^waiting no worker reads it now/, 'E10: a catalogue that the worker cannot read: waiting');
append('a');
sql(q{ALTER TABLE guest_context._changelog_state RENAME COLUMN changed TO changes});
read_all('a', 'E10: and goes on when it can');
lap('catalogue');

# --- the owner may not connect

$from = log_end();
sql(q{REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'});
happens(status('a'), qr/^waiting role "app" may not connect to database "postgres"\nGRANT CONNECT ON DATABASE postgres TO app;/, 'a role that may not connect: waiting, with what to run');
sleep 7;
is(logged($from, qr/FATAL:  permission denied for database/), 1, 'which is tried once, not for ever');
sql(q{GRANT CONNECT ON DATABASE postgres TO PUBLIC; SELECT * FROM guest_context.run_maintenance()});
append('a');
read_all('a', 'granted again: it goes on');
lap('connect');

# --- A4: ended again and again

for (1 .. 3)
{
	becomes($workers, '1', "A4: before end $_ there is a worker");
	append('a', 300);
	my $pid = ingest_pid();
	my $at = time;
	sql("SELECT pg_terminate_backend($pid, 30000)");
	my $took = time - $at;
	note sprintf 'A4: it took %.2f s to end', $took;
	cmp_ok($took, '<', 5, 'A4: it ends at once');
	append('a', 300);
}
read_all('a', 'A4: each record is there once');
lap('A4');

# --- A5: other databases come and go

becomes(status('a'), 'running', 'A5: a worker reads');
for my $what ('CREATE DATABASE other', 'DROP DATABASE other')
{
	my $at = time;
	$node->safe_psql('template1', $what);
	note sprintf 'A5: %s took %.2f s', $what, time - $at;
	cmp_ok(time - $at, '<', 10, "A5: $what is not held up by a worker of another database");
}
becomes($workers, '1', 'A5: it is still there');

# --- E9: the database is copied, renamed, dropped

$from = log_end();
my $workers_in = sub { return $node->safe_psql('template1', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest' AND datname ~ '^($_[0])\$'") };
# Waits, by another database than the one that may be called otherwise.
my $reads_in = sub {
	my ($database, $count, $name) = @_;
	my $until = time + 60;
	sleep 0.05 while $workers_in->($database) ne $count && time < $until;
	is($workers_in->($database), $count, $name);
};
for my $what ('CREATE DATABASE copy TEMPLATE postgres', 'ALTER DATABASE postgres RENAME TO moved', 'ALTER DATABASE moved RENAME TO postgres', 'DROP DATABASE copy')
{
	$reads_in->('postgres|moved', 1, "E9: before $what a worker reads");
	append('a', 100);
	my $at = time;
	$node->safe_psql('template1', $what);
	note sprintf 'E9: %s took %.2f s', $what, time - $at;
	pass("E9: $what");
	append('a', 100);
	if ($what =~ /RENAME TO moved/)
	{
		my $until = time + 60;
		sleep 0.1 while $node->safe_psql('moved', 'SELECT count(*) FROM shop.items') < $last{a} && time < $until;
		is($node->safe_psql('moved', 'SELECT count(*) FROM shop.items'), $last{a} + $last{later}, 'E9: under another name it reads on');
		next;
	}
	read_all('a', "E9: after that it reads on");
	next unless $what =~ /TEMPLATE/;
	is($node->safe_psql('copy', status('a')), 'paused paused in this copy of the database', 'E9: the copy is paused');
	# one that reads there too
	$node->safe_psql('copy', q{SET ROLE app; SELECT guest_context.resume('a')});
	my $until = time + 60;
	sleep 0.1 while $node->safe_psql('copy', status('a')) ne 'running' && time < $until;
	is($node->safe_psql('copy', status('a')), 'running', 'E9: and runs there when it is resumed');
	$reads_in->('copy', 1, 'E9: by a worker of its own');
	sql("CREATE DATABASE scratch TEMPLATE copy");
	$node->safe_psql('scratch', q{SET ROLE app; SELECT guest_context.resume('a')});
	$reads_in->('scratch', 1, 'E9: and in a third');
	sql('DROP DATABASE scratch WITH (FORCE)');
	$reads_in->('scratch', 0, 'E9: DROP DATABASE WITH (FORCE)');
}
sleep 7;
is(sql($workers), '1', 'E9: no worker for a database that is gone');
is(logged($from, qr/\] FATAL:  database .* does not exist/), 0, 'E9: nor the log of one that tries');
is(logged($from, qr/ERROR:/), 0, 'E9: no errors');
lap('E9');

# --- E8: the extension comes and goes

$from = log_end();
$node->safe_psql('template1', 'CREATE DATABASE lake');
for my $round (1 .. 4)
{
	$node->safe_psql('lake', qq{
		CREATE EXTENSION guest_context;
		CREATE SERVER lake TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$journal');
		GRANT USAGE ON FOREIGN SERVER lake TO app;
		GRANT CREATE ON DATABASE lake TO app;
		SET ROLE app;
		CREATE SCHEMA shop;
		CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
		SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
		SELECT guest_context.create_changelog('shop.items', 'lake', 'a');
	});
	if ($round > 1)
	{
		$reads_in->('lake', 1, "E8: round $round: a worker reads");
		sleep 0.15 * ($round - 2);	# in the middle of its start, or of its reading
	}
	append('a', 1000);
	my $at = time;
	$node->safe_psql('lake', 'DROP EXTENSION guest_context CASCADE; DROP SCHEMA shop CASCADE');
	note sprintf 'E8: DROP EXTENSION took %.2f s', time - $at;
	$at = time;
	$reads_in->('lake', 0, "E8: round $round: the worker leaves");
	note sprintf 'E8: it was gone after %.2f s', time - $at;
}
sleep 6;
is(logged($from, qr/ERROR:|FATAL:|PANIC:/), 0, 'E8: no errors in the log') or diag(slurp_file($node->logfile, $from));
is(logged($from, qr/reading changelogs begins again/), 0, 'E8: nor in the worker');
$node->safe_psql('template1', 'DROP DATABASE lake');
read_all('a', 'E8: the other database did not mind');
lap('E8');

# --- A10: no slot for a worker

app(q{SELECT guest_context.pause('a')});
$node->stop;
$node->append_conf('postgresql.conf', "max_worker_processes = 3\nmax_logical_replication_workers = 0\n");
$node->start;
append('b');
sql(qq{CREATE SERVER second TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$journal'); GRANT USAGE ON FOREIGN SERVER second TO app});
append('a');
app(q{SELECT guest_context.resume('a')});
read_all('a', 'A10: one slot is for the launcher, one for this worker');
$from = log_end();
app(q{SELECT guest_context.create_changelog('shop.items', 'second', 'b', name => 'b')});
happens(status('b'), qr/^waiting waiting for a worker slot: raise max_worker_processes/, 'A10: and one for maintenance: the next worker waits for a slot');
sql(q{SELECT * FROM guest_context.run_maintenance()}) for 1 .. 3;
like(sql(status('b')), qr/^waiting waiting for a worker slot/, 'A10: it still waits');
like(sql(status('a')), qr/^running/, 'A10: the other one runs on');
is(logged($from, qr/waiting for a worker slot/), 1, 'A10: the log has it once');
is(logged($from, qr/ERROR:|FATAL:/), 0, 'A10: and no errors');
app(q{SELECT guest_context.pause('a')});
becomes($workers, '0', 'A10: a slot is free');
read_all('b', 'A10: it is tried again by itself');
becomes(status('b'), 'running', 'A10: running');
app(q{SELECT guest_context.drop_changelog('b')});
$node->stop;
$node->append_conf('postgresql.conf', "max_worker_processes = 1\n");
$node->start;
app(q{SELECT guest_context.resume('a')});
happens(status('a'), qr/^waiting waiting for a worker slot/, 'A10: without a slot for maintenance: the same');
is(logged($from, qr/waits for a free background worker/), 1, 'A10: once in the log');
lap('A10');

# --- without preloading

$node->stop;
$node->append_conf('postgresql.conf', "max_worker_processes = 16\nshared_preload_libraries = ''\n");
$node->start;
append('a');
happens(status('a'), qr/^waiting no worker reads it:\nSELECT \* FROM guest_context\.run_maintenance\(\);/, 'without preloading nobody starts a worker: the status says who can');
sql(q{SELECT * FROM guest_context.run_maintenance()});
read_all('a', 'and so it is');
becomes(status('a'), 'running', 'running');
append('a', 50);
my $at = time;
$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
note sprintf 'E9: without preloading it took %.2f s', time - $at;
append('a', 50);
read_all('a', 'E9: without preloading the worker comes back by itself as well');
becomes(status('a'), 'running', 'running');
sql('DROP DATABASE copy');
lap('without preloading');
$node->stop;

# --- A11: what the log has of all that time

sleep 75 - (time - $down_since) if time - $down_since < 75;
my $minutes = int((time - $down_since) / 60);
my $lonely_log = sub { my ($pattern) = @_; my @lines = grep { /$pattern/ } split /\n/, slurp_file($lonely->logfile, $lonely_since); return scalar @lines };
like($lonely->safe_psql('postgres', q{SELECT concat_ws(' ', state, message) FROM guest_context.status LIMIT 1}), qr/^waiting no broker can be reached: .*\nSELECT \* FROM guest_context.check_server\('events'\);\z/, 'A11: it waits for the broker');
is($lonely_log->(qr/changelog ".*" waits/), 2, "A11: a line for each of two changelogs in $minutes minutes");
my $lines = $lonely_log->(qr/LOG:  guest_context reader/);
cmp_ok($lines, '<=', 3 + $minutes + 1, "A11: a few lines of the library, then one a minute: $lines");
cmp_ok($lines, '>', 0, 'A11: but not none');
is($lonely_log->(qr/reading changelogs begins again|WARNING:|ERROR:|FATAL:/), 0, 'A11: and nothing else');
$kafka->restart;
$kafka->produce('x', [ [ 'x1', '{"ref":"x1","n":1,"modifiedAt":"2024-03-24T12:20:01Z"}' ] ]);
ok($lonely->poll_query_until('postgres', q{SELECT count(*) FROM shop.items}, '1'), 'A11: it goes on when the broker is back');
ok($lonely->poll_query_until('postgres', $states, 'running,running'), 'A11: both run');
is($lonely_log->(qr/changelog ".*" goes on/), 2, 'A11: which the log has once for each');
$lonely->stop;
lap('A11');
done_testing();
