# B7, B8, B9, B10, F1: readers wait for a record, and for the end of their topics: woken by the commit that they wait
# for, told at once when nobody will read on; without preloading and on a standby by looking again and again.
use strict;
use warnings;

use Changelogs;
use IPC::Run;
use Kafka;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start(users => { app => 'app-secret' });
my $node = changelogs_node($kafka, 'wal_level = replica', 'max_wal_senders = 4', 'hot_standby = on', 'max_prepared_transactions = 2');
my $stamp = '"modifiedAt":"2024-03-24T12:20:01Z"';
sub item { my ($ref, $n) = @_; $n //= 1; return [ $ref, qq({"ref":"$ref","n":$n,$stamp}) ] }
sub status { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.items/$topic'" }
app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
	SELECT guest_context.create_entity('shop.others', 'shop.item_shape');
});
sql(q{CREATE ROLE reader; CREATE ROLE nobody; GRANT USAGE ON SCHEMA shop TO reader, nobody; GRANT SELECT ON shop.items TO reader});

# --- a session that does something which takes its time

my %waits;

# Starts SQL, one transaction, in a session of this name; returns when it waits, in its last statement.
sub begin
{
	my ($name, $sql, $where) = @_;
	my ($out, $err) = ('', '');
	my $session = { out => \$out, err => \$err };
	$session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', ($where // $node)->connstr('postgres'),
		'-c', "SET application_name = '$name'; $sql" ], '<', \'', '>', \$out, '2>', \$err, IPC::Run::timeout(600));
	$waits{$name} = $session;
	return;
}

sub activity { my ($name) = @_; return "FROM pg_stat_activity WHERE application_name = '$name' AND state = 'active' AND wait_event_type = 'Extension'" }

# What the session has said by its end.
sub end
{
	my ($name) = @_;
	my $session = delete $waits{$name};
	IPC::Run::finish($session->{run});
	my $said = ${ $session->{out} } . ${ $session->{err} };
	chomp $said;
	return $said;
}

# One look, then a wait for a record: prints whether it has come, and how often it looked in between.
sub count_looks
{
	my ($topic, $offset, $role) = @_;
	my $scans = q{SELECT sum(pg_stat_get_xact_numscans(c.oid)) FROM pg_class c WHERE relnamespace = 'guest_context'::regnamespace AND relname ~ '^_changelog'};
	return qq{SET ROLE reader; CREATE TEMP TABLE n AS $scans;
		SELECT count(*) FROM guest_context.wait_for('shop.items', '$topic', 0, 0) AS w; INSERT INTO n $scans;
		SELECT guest_context.wait_for('shop.items', '$topic', 0, $offset, '1 h'); INSERT INTO n $scans;
		SELECT ((max(sum) - min(sum)) / (percentile_disc(0.5) WITHIN GROUP (ORDER BY sum) - min(sum)))::int - 1 FROM n};
}

# --- woken

$kafka->create_topic('one');
$kafka->produce('one', [ item('a') ]);
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'one')});
is(sql(q{SELECT guest_context.wait_for('shop.items', 'one', 0, 0, '2 min')}), 't', 'wait_for what comes');
begin('looks', count_looks('one', 1));
becomes(q{SELECT count(*) } . activity('looks') . q{ AND now() - query_start > '2 s'}, '1', 'a session waits for a record', 120);
$kafka->produce('one', [ item('b') ]);
my ($seen, $came, $looks) = split /\n/, end('looks');
is($came, 't', 'it comes');
cmp_ok($looks, '>=', 2, 'it has looked before it slept and when it was woken');
cmp_ok($looks, '<=', 8, "not more often ($looks times), however long it slept");
is(sql(q{SET ROLE reader; SELECT count(*) FROM shop.items WHERE ref = 'b'}), '1', 'and is to be read');

# a commit between a look and the sleep is not missed: the timeout would end it after an hour
begin("racer$_", qq{SET ROLE reader; DO \$\$ BEGIN FOR i IN 2 .. 61 LOOP PERFORM guest_context.wait_for('shop.items', 'one', 0, i, '1 h'); END LOOP; END \$\$; SELECT 'all'}) for 1 .. 3;
becomes(q{SELECT count(DISTINCT application_name) FROM pg_stat_activity WHERE application_name ~ '^racer' AND wait_event_type = 'Extension'}, '3', 'three sessions wait for one record after the other', 120);
for my $i (2 .. 61) { $kafka->produce('one', [ item("r$i") ]) }
is(end("racer$_"), 'all', "session $_ was woken for each of them") for 1 .. 3;

# --- told at once that nobody reads on

sub waits_for
{
	my ($name, $offset) = @_;
	begin($name, "SET ROLE reader; SELECT guest_context.wait_for('shop.items', 'one', 0, $offset, '1 h')");
	becomes('SELECT count(*) ' . activity($name), '1', "a session waits: $name", 120);
	return;
}
waits_for('pause', 1000);
app(q{SELECT guest_context.pause('shop.items/one')});
like(end('pause'), qr/changelog "shop.items\/one" has stopped/, 'a pause ends the wait');
app(q{SELECT guest_context.resume('shop.items/one')});
waits_for('undone', 1000);
app(q{BEGIN; SELECT guest_context.pause('shop.items/one'); ROLLBACK});
sql(q{SELECT pg_cancel_backend(pid) } . activity('undone'));
like(end('undone'), qr/canceling statement due to user request/, 'one that is undone does not; a wait can be cancelled');
waits_for('prepared', 1000);
app(q{BEGIN; SELECT guest_context.pause('shop.items/one'); PREPARE TRANSACTION 'p'});
is(sql('SELECT count(*) ' . activity('prepared')), '1', 'one that is prepared does not');
app(q{COMMIT PREPARED 'p'});
like(end('prepared'), qr/changelog "shop.items\/one" has stopped/, 'until it is committed');
app(q{SELECT guest_context.resume('shop.items/one')});
waits_for('halt', 1000);
app(q{ALTER TABLE shop.items_versions RENAME COLUMN n TO m});
$kafka->produce('one', [ item('h') ]);
like(end('halt'), qr/changelog "shop.items\/one" has stopped/, 'a halt ends the wait');
like(app_fails(q{SELECT guest_context.wait_for_head('shop.others')}), qr/entity "shop.others" has no changelog\n/, 'wait_for_head without a changelog');
app(q{ALTER TABLE shop.items_versions RENAME COLUMN m TO n});
like(app_fails(q{SELECT guest_context.wait_for_head('shop.items')}), qr/changelog "shop.items\/one" has stopped/, 'wait_for_head with one that has halted');
app(q{SELECT guest_context.resume('shop.items/one')});
is(sql(q{SET ROLE reader; SELECT guest_context.wait_for_head('shop.items', '2 min')}), 't', 'which goes on');
waits_for('drop', 1000);
app(q{SELECT guest_context.drop_changelog('shop.items/one')});
like(end('drop'), qr/has no changelog of topic "one"/, 'so does dropping the changelog');
like(app_fails(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT guest_context.wait_for_head('shop.items')}), qr/in a transaction that keeps its snapshot/,
	'wait_for_head is refused in REPEATABLE READ');

# an error in a subtransaction leaves nothing behind that would sleep on
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'one')});
is(sql(q{SELECT guest_context.wait_for('shop.items', 'one', 0, 62, '2 min')}), 't', 'read again by a new changelog');
is(sql(q{SET statement_timeout = '500 ms'; DO $$ BEGIN
	BEGIN PERFORM guest_context.wait_for('shop.items', 'one', 0, 1000, '1 h'); EXCEPTION WHEN query_canceled THEN SET LOCAL statement_timeout = 0; END;
	IF guest_context.wait_for('shop.items', 'one', 0, 1000, '200 ms') OR NOT guest_context.wait_for('shop.items', 'one', 0, 1) THEN RAISE 'wrong'; END IF;
	END $$; SELECT 'right'}), 'right', 'a wait after one that was ended by statement_timeout');

# --- the head

sub head { my ($timeout) = @_; $timeout //= '2 min'; return sql("SET ROLE reader; SELECT guest_context.wait_for_head('shop.items', '$timeout')") }

like((sub { my (undef, undef, $err) = $node->psql('postgres', q{SET ROLE nobody; SELECT guest_context.wait_for_head('shop.items')}); return $err })->(),
	qr/permission denied for view shop.items/, 'wait_for_head is for those who may read the entity');
$kafka->create_topic('many', partitions => 3);
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'many')});
is(head(), 't', 'empty partitions have been read');
$kafka->produce('many', [ map { item("m$_") } 1 .. 2000 ]);
$kafka->produce('one', [ item('last') ]);
is(head(), 't', 'the head of two topics');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref ~ '^m' OR ref = 'last'}), '2001', 'all is to be read that was there');

$kafka->create_topic('tx');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'tx')});
$kafka->transaction('commit', 'tx', [ item('t1') ]);
is(head(), 't', 'with a marker at the end');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref = 't1'}), '1', 'what was committed before it is there');
$kafka->transaction('abort', 'tx', [ item('t2') ]);
is(head(), 't', 'with an aborted transaction at the end');
my $transaction = $kafka->transaction('open', 'tx', [ item('t3') ]);
$kafka->produce('tx', [ item('t4') ]);
is(head(), 't', 'with an open transaction it is its start');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref IN ('t2', 't3', 't4')}), '0', 'behind which nothing can be read');
$transaction->commit;
is(head(), 't', 'and the end again when that has been committed');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref IN ('t3', 't4')}), '2', 'with what it brought');

$kafka->create_topic('compact', config => { 'cleanup.policy' => 'compact', 'segment.ms' => 100, 'min.cleanable.dirty.ratio' => 0.001, 'delete.retention.ms' => 0, 'max.compaction.lag.ms' => 100 });
$kafka->produce('compact', [ map { item('z' . ($_ % 3), $_) } 1 .. 30 ]);
$kafka->transaction('commit', 'compact', [ [ 'z0', undef ] ]);
sleep 0.2;
$kafka->transaction('abort', 'compact', [ item('z5') ]);
{
	my $until = time + 60;
	sleep 0.2 while time < $until && $kafka->consume('compact') > 10;
	cmp_ok(scalar($kafka->consume('compact')), '<=', 10, 'a topic is compacted');
}
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'compact')});
is(head('2 min'), 't', 'the head of a compacted topic with gaps and an aborted transaction at the end');
is(sql(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE ref ~ '^z'}), 'z1,z2', 'is read');

# --- when nothing is read

sql(q{ALTER SYSTEM SET guest_context.ingest_enabled = off});
sql(q{SELECT pg_reload_conf()});
becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, '0', 'nobody reads');
is(head('500 ms'), 't', 'the head is where it was');
$kafka->produce('many', [ item('late') ]);
is(head('500 ms'), 'f', 'and now it is not reached in time');
begin('head', q{SET ROLE reader; SELECT guest_context.wait_for_head('shop.items', '1 h'), (SELECT count(*) FROM shop.items WHERE false)});
becomes(q{SELECT count(*) } . activity('head'), '1', 'a session waits for the head', 120);
sql(q{ALTER SYSTEM RESET guest_context.ingest_enabled});
sql(q{SELECT pg_reload_conf()});
app(q{SELECT guest_context.resume('shop.items/many')});
is(end('head'), 't|0', 'and is woken');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref = 'late'}), '1', 'when the record is there');
app(q{SELECT guest_context.pause('shop.items/tx')});
like(app_fails(q{SELECT guest_context.wait_for_head('shop.items')}), qr/changelog "shop.items\/tx" has stopped/, 'one of several is paused: an error, though the others go on');
app(q{SELECT guest_context.drop_changelog('shop.items/tx')});

# --- what the server says

$kafka->freeze;
my $err = app_fails(q{SELECT guest_context.wait_for_head('shop.items', '1 s')});
like($err, qr/server "events" does not say where topic "\w+" ends\n.*There was no answer in time/, 'a server that does not answer');
unlike($err, qr/127\.0\.0\.1/, 'whose address is nobody\'s business');
$kafka->thaw;
is(head('2 min'), 't', 'answers again');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'nowhere')});
like(app_fails(q{SELECT guest_context.wait_for_head('shop.items')}), qr/topic "nowhere" does not exist on server "events"/, 'a topic that is not there');
app(q{SELECT guest_context.drop_changelog('shop.items/nowhere')});

# A topic that was made anew, and nobody has noticed: an offset behind its end proves nothing.
$kafka->create_topic('anew', partitions => 2);
$kafka->produce('anew', [ map { item("old$_") } 1 .. 6 ]);
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'anew')});
is(head('2 min'), 't', 'a topic is read');
sql(q{ALTER SYSTEM SET guest_context.ingest_enabled = off});
sql(q{SELECT pg_reload_conf()});
becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, '0', 'nobody reads');
$kafka->delete_topic('anew');
$kafka->create_topic('anew');
$kafka->produce('anew', [ item('new') ]);
is(head('1 s'), 'f', 'the head of the topic that is there now is not reached');
begin('anew', q{SET ROLE reader; SELECT guest_context.wait_for_head('shop.items', '1 h')});
becomes(q{SELECT count(*) } . activity('anew'), '1', 'a session waits for it', 120);
sql(q{ALTER SYSTEM RESET guest_context.ingest_enabled});
sql(q{SELECT pg_reload_conf()});
app(q{SELECT guest_context.resume('shop.items/anew')});
like(end('anew'), qr/changelog "shop.items\/anew" has stopped/, 'until the worker has noticed');
app(q{SELECT guest_context.accept_topic('shop.items/anew', 'made anew')});
is(head('2 min'), 't', 'and to its end when it is accepted');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref = 'new'}), '1', 'with its record');
app(q{SELECT guest_context.drop_changelog('shop.items/anew')});

# with the login of the owner, whoever asks
my $sasl = $kafka->bootstrap('SASL_PLAINTEXT');
sql(qq{CREATE SERVER guarded FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '$sasl', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN');
	GRANT USAGE ON FOREIGN SERVER guarded TO app;
	CREATE USER MAPPING FOR app SERVER guarded OPTIONS ("sasl.username" 'app', "sasl.password" 'app-secret')});
$kafka->create_topic('guarded');
$kafka->produce('guarded', [ item('g1') ]);
app(q{SELECT guest_context.create_changelog('shop.items', 'guarded', 'guarded')});
is(head('2 min'), 't', 'somebody without a login of his own waits for the head');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref = 'g1'}), '1', 'and reads it');
sql(q{ALTER USER MAPPING FOR app SERVER guarded OPTIONS (SET "sasl.password" 'wrong-secret')});
$err = app_fails(q{SELECT guest_context.wait_for_head('shop.items', '1 s')});
like($err, qr/server "guarded" does not say where topic "guarded" ends/, 'with a wrong password');
unlike($err, qr/secret|127\.0\.0\.1/, 'nothing is said of it');
app(q{SELECT guest_context.drop_changelog('shop.items/guarded')});

# --- a standby, where commits come by replay

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $next = app(q{SELECT next_offset FROM guest_context.offsets('shop.items') WHERE topic = 'one'});
begin('standby', qq{SELECT guest_context.wait_for('shop.items', 'one', 0, $next, '1 h')}, $standby);
$standby->poll_query_until('postgres', 'SELECT count(*) = 1 ' . activity('standby')) or die 'nobody waits on the standby';
$kafka->produce('one', [ item('s1') ]);
is(end('standby'), 't', 'on a standby a record is waited for');
$kafka->produce('one', [ item('s2') ]);
is($standby->safe_psql('postgres', q{SELECT guest_context.wait_for_head('shop.items', '2 min')}), 't', 'and the head');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM shop.items WHERE ref IN ('s1', 's2')}), '2', 'and is there');
$standby->stop;

# --- without preloading

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
app(q{SELECT guest_context.resume('shop.items/one')});
becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, '1', 'without preloading a verb starts the worker');
$next = app(q{SELECT next_offset FROM guest_context.offsets('shop.items') WHERE topic = 'one'});
begin('polls', count_looks('one', $next));
becomes(q{SELECT count(*) } . activity('polls') . q{ AND now() - query_start > '2 s'}, '1', 'a session waits', 120);
$kafka->produce('one', [ item('p') ]);
($seen, $came, $looks) = split /\n/, end('polls');
is($came, 't', 'and the record comes');
cmp_ok($looks, '>', 8, "it looked $looks times");
begin('unpaused', qq{SELECT guest_context.wait_for('shop.items', 'one', 0, 10000, '1 h')});
becomes(q{SELECT count(*) } . activity('unpaused'), '1', 'another one waits', 120);
app(q{SELECT guest_context.pause('shop.items/one')});
like(end('unpaused'), qr/has stopped/, 'until the changelog is paused');
$node->stop;
done_testing();
