# B3, B9, B15, D3: replay and purge_version with a real Kafka and with files: rows that somebody deleted come back, what is there
# already does not change, and a purged version stays away, whoever reads it again.
use strict;
use warnings;

use Changelogs;
use Kafka;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $node = changelogs_node($kafka, 'guest_context.batch_rows = 700', 'guest_context.batch_bytes = 1MB', 'guest_context.max_future_skew = 20000d');
app(q{
	CREATE TYPE shop.order_shape AS (ref text, status text, total numeric, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.orders', 'shop.order_shape');
});
sub order
{
	my ($ref, $status, $at, $total) = @_;
	return [ $ref, qq({"ref":"$ref","status":"$status","total":) . ($total // 1) . qq(,"modifiedAt":"$at"}) ];
}
sub truth { return app(q{SELECT md5(string_agg(o::text, ',' ORDER BY ref)) FROM shop.orders o}) }
sub versions { return app(q{SELECT count(DISTINCT (gc_source, gc_partition, gc_offset)) FROM shop.orders_versions}) }
sub caught_up
{
	my ($topic) = @_;
	my $partitions = scalar keys %{ $kafka->leaders($topic) };
	my $high = 0;
	$high += $kafka->last_stable_offset($topic, $_) for 0 .. $partitions - 1;
	return becomes("SELECT sum(next_offset) FROM guest_context.offsets('shop.orders') WHERE topic = '$topic'", "$high", "all of $topic has been read", 60);
}
sub replay { my ($since, $changelog) = @_; return app(sprintf q{SELECT guest_context.replay('%s', '%s')}, $changelog // 'shop.orders/orders', $since) }

$kafka->create_topic('orders', partitions => 2);
$kafka->produce('orders', [ map { order("k$_", 'OLD', '2024-03-01T00:00:00Z', $_) } 1 .. 1500 ]);
$kafka->produce('orders', [ (map { order("k$_", 'NEW', '2024-03-02T00:00:00Z', $_) } 1 .. 1000), [ 'k1', undef, undef, undef, 1711975000000 ] ]);
$kafka->transaction('commit', 'orders', [ order('t1', 'COMMITTED', '2024-03-02T00:00:00Z') ]);
$kafka->transaction('abort', 'orders', [ order('t2', 'ABORTED', '2024-03-02T00:00:00Z') ]);
$kafka->produce('orders', [ order('b1', 'BAD', '2024-03-02T00:00:00Z', '"much"'), [ 'b2', 'no json' ], order('b3', 'BAD', '2999-01-01T00:00:00Z') ]);
app(q{SELECT guest_context.create_changelog('shop.orders', 'events', 'orders')});
caught_up('orders');
my $truth = truth();
my $versions = versions();
is(app(q{SELECT count(*) FROM shop.orders}), '1500', 'the truth before: 1,499 and one of a transaction');
is(app(q{SELECT count(*) FROM guest_context.dead_letter}), '3', 'and three dead letters');

# --- what somebody deleted comes back, while the changelog runs

app(q{DELETE FROM shop.orders_versions WHERE gc_dataset = 0 AND (status = 'NEW' OR gc_deleted OR status = 'COMMITTED')});
isnt(truth(), $truth, 'rows deleted by hand: the truth is another one');
my $offsets = app(q{SELECT string_agg(o::text, ' ' ORDER BY partition) FROM guest_context.offsets('shop.orders') o});
my $generation = app(q{SELECT generation FROM guest_context.changelog});
is(replay('-infinity'), '2502', 'replay applies every record that can be applied');
is(truth(), $truth, 'and the truth is back');
is(versions(), $versions, 'with the places that the records had, none of an aborted transaction');
is(app(q{SELECT string_agg(o::text, ' ' ORDER BY partition) FROM guest_context.offsets('shop.orders') o}), $offsets, 'the ledger is not touched');
is(app(q{SELECT generation FROM guest_context.changelog}), $generation, 'nor the generation');
is(app(q{SELECT count(*) FROM guest_context.dead_letter}), '3', 'the dead letters are there once');
is(app(q{SELECT count(*) FROM shop.orders_versions WHERE status = 'ABORTED'}), '0', 'what was aborted is not');
like(app(q{SELECT role || verb || object || detail FROM guest_context.audit WHERE verb = 'replay'}), qr/^appreplayshop\.orders\/orders\{.*"applied": 2502/, 'the audit has it');
replay('-infinity') for 1 .. 2;
is(truth(), $truth, 'three times: the same bytes');
app(q{SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter});
replay('-infinity');
is(app(q{SELECT count(*) FROM guest_context.dead_letter}), '3', 'bad records become dead letters, as ever');

# --- since when, up to where; paused and halted

is(replay('now'), '0', 'nothing is newer than now');
is(replay('infinity'), '0', 'nor than ever');
my $half = sql('SELECT clock_timestamp()');
sleep 0.01;
app(q{SELECT guest_context.pause('shop.orders/orders')});
$kafka->produce('orders', [ map { order("p$_", 'PAUSED', '2024-03-03T00:00:00Z') } 1 .. 10 ]);
is(replay($half), '0', 'paused: it goes up to where the changelog is');
is(app(q{SELECT count(*) FROM shop.orders WHERE status = 'PAUSED'}), '0', 'and no further');
app(q{SELECT guest_context.resume('shop.orders/orders')});
caught_up('orders');
is(replay($half), '10', 'since a time: what has a later one');
app(q{DELETE FROM shop.orders_versions WHERE gc_dataset = 0 AND status IN ('PAUSED', 'NEW')});
is(replay($half), '10', 'again');
is(app(q{SELECT count(*) FROM shop.orders WHERE status = 'PAUSED'}), '10', 'they are back');
is(app(q{SELECT count(*) FROM shop.orders WHERE status = 'NEW'}), '0', 'and older ones are not');
replay('-infinity');

app(q{SELECT guest_context.alter_changelog('shop.orders/orders', on_error => 'halt')});
like(app_fails(q{SELECT guest_context.replay('shop.orders/orders', '-infinity')}),
	qr/cannot replay changelog "shop.orders\/orders" at partition \d, offset \d+: /, 'on_error = halt: an error that names the record');
my ($partition, $offset) = @{ ($kafka->produce('orders', [ [ 'h1', 'no json' ] ]))[0] };
becomes(q{SELECT state FROM guest_context.status}, 'halted', 'a changelog that has halted');
is(replay($half), '10', 'is replayed up to there');
app("SELECT guest_context.skip('shop.orders/orders', $partition, $offset, 'no json')");
caught_up('orders');
is(replay($half), '10', 'and what was skipped stays left out');
app(q{SELECT guest_context.alter_changelog('shop.orders/orders', on_error => 'dead_letter')});

# --- all or nothing, and a version that must not be: it stays away

like(app_fails(q{BEGIN READ ONLY; SELECT guest_context.replay('shop.orders/orders', '-infinity')}), qr/cannot execute replay\(\) in a read-only transaction/, 'not in a read-only transaction');
like(app_fails(q{SELECT guest_context.replay('nothing', '-infinity')}), qr/changelog "nothing" does not exist/, 'not of what is not there');
sql(q{CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA shop TO stranger});
my ($ret, $out, $err) = $node->psql('postgres', q{SET ROLE stranger; SELECT guest_context.replay('shop.orders/orders', '-infinity')});
like($err, qr/must be owner of entity "shop.orders"/, 'not by others');
$truth = truth();
$versions = app(q{SELECT count(*) FROM shop.orders_versions});
app(q{BEGIN; SELECT guest_context.replay('shop.orders/orders', '-infinity'); ROLLBACK});
is(app(q{SELECT count(*) FROM shop.orders_versions}), $versions, 'rolled back: nothing has been');
# an error that is caught leaves the session fit for the next
is(app(q{DO $$ BEGIN
	PERFORM guest_context.alter_changelog('shop.orders/orders', on_error => 'halt');
	PERFORM guest_context.replay('shop.orders/orders', '-infinity');
EXCEPTION WHEN OTHERS THEN NULL; END $$;
SELECT guest_context.replay('shop.orders/orders', '} . $half . q{')}), '10', 'an error that was caught leaves nothing behind');

app(q{SELECT guest_context.purge_version('shop.orders', 'k2', '2024-03-02Z', 'a test')});
is(app(q{SELECT status FROM shop.orders WHERE ref = 'k2'}), 'OLD', 'purged: the version before it counts');
replay('-infinity');
is(app(q{SELECT status FROM shop.orders WHERE ref = 'k2'}), 'OLD', 'and counts after a replay');
app(q{SELECT guest_context.purge_version('shop.orders', 'k1', '2024-04-01 12:36:40Z', 'deleted by mistake')});
is(app(q{SELECT status FROM shop.orders WHERE ref = 'k1'}), 'NEW', 'a tombstone is a version too');
app(q{SELECT guest_context.pause('shop.orders/orders'), guest_context.seek('shop.orders/orders', 'earliest'), guest_context.resume('shop.orders/orders')});
caught_up('orders');
is(app(q{SELECT string_agg(ref || status, ' ' ORDER BY ref) FROM shop.orders WHERE ref IN ('k1', 'k2')}), 'k1NEW k2OLD', 'and after a seek');
is(app(q{SELECT count(*) FROM guest_context.dead_letter WHERE convert_from(key, 'UTF8') LIKE 'k%'}), '0', 'neither is a dead letter');
my $oracle = app(q{SELECT guest_context.truth_sql('shop.orders', portable => true)});
is(app("SELECT count(*) FROM ((TABLE shop.orders EXCEPT ($oracle)) UNION ALL (($oracle) EXCEPT TABLE shop.orders)) d"), '0', 'the view agrees with plain SQL');
# one that is purged before it comes, and its neighbour; one that was a dead letter
app(q{SELECT guest_context.purge_version('shop.orders', 'b4', '2066-01-01Z', 'a clock is ahead'), guest_context.purge_version('shop.orders', 'b6', '2096-01-01Z', 'a clock is ahead')});
$kafka->produce('orders', [ order('b4', 'AHEAD', '2066-01-01T00:00:00Z'), order('b5', 'AHEAD', '2066-01-01T00:00:00Z'), order('b6', 'AHEAD', '2096-01-01T00:00:00Z') ]);
caught_up('orders');
is(app(q{SELECT string_agg(ref, ',') FROM shop.orders WHERE status = 'AHEAD'}), 'b5', 'a version that was purged before it came, and its neighbour');
is(app(q{SELECT guest_context.requeue(array_agg(id)) FROM guest_context.dead_letter WHERE convert_from(key, 'UTF8') = 'b6'}), '1', 'one that is a dead letter is requeued');
is(app(q{SELECT string_agg(ref, ',') FROM shop.orders WHERE status = 'AHEAD'}), 'b5', 'and left out');
app(q{SELECT guest_context.purge_version('shop.orders', 'b5', '2066-01-01Z', 'a clock is ahead')});
is(app(q{SELECT count(*) FROM shop.orders WHERE status = 'AHEAD'}), '0', 'a version far ahead is repaired');

# --- what nobody can read, and was skipped

sql(q{CREATE SERVER small FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '} . $kafka->bootstrap . q{', "receive.message.max.bytes" '1000000');
	GRANT USAGE ON FOREIGN SERVER small TO app});
$kafka->create_topic('large', config => { 'max.message.bytes' => 4_000_000 });
$kafka->produce('large', [ map { order("l$_", 'LARGE', '2024-03-01T00:00:00Z') } 1 .. 3 ]);
$kafka->produce('large', [ order('huge', 'LARGE', qq(2024-03-01T00:00:00Z","pad":") . 'x' x 3_000_000) ], 'message.max.bytes' => 4_000_000);
$kafka->produce('large', [ map { order("l$_", 'LARGE', '2024-03-01T00:00:00Z') } 4 .. 6 ]);
app(q{SELECT guest_context.create_changelog('shop.orders', 'small', 'large', name => 'large')});
happens(q{SELECT state || ' ' || message FROM guest_context.status WHERE changelog = 'large'}, qr/^halted unreadable: .*\(partition 0 offset 3\)/, 'a record above the limit halts', 60);
is(replay('-infinity', 'large'), '3', 'what is before it is replayed');
app(q{SELECT guest_context.skip('large', 0, 3, 'too large')});
caught_up('large');
app(q{DELETE FROM shop.orders_versions WHERE gc_dataset = 0 AND status = 'LARGE'});
is(replay('-infinity', 'large'), '6', 'and once it was skipped, what is behind it too');
is(app(q{SELECT string_agg(ref, ' ' ORDER BY ref) FROM shop.orders WHERE status = 'LARGE'}), 'l1 l2 l3 l4 l5 l6', 'all that can be read');
app(q{SELECT guest_context.drop_changelog('large')});

# --- progress and cancel

my $session = $node->background_psql('postgres');
$session->query_safe('SET ROLE app');
$session->query_safe(q{BEGIN; LOCK TABLE shop.orders_speed IN SHARE MODE});
my $replayer = $node->background_psql('postgres', on_error_stop => 0);
$replayer->query_safe('SET ROLE app');
my $pid = $replayer->query_safe('SELECT pg_backend_pid()');
$replayer->query_until(qr/begun/, qq{\\echo begun\nSELECT guest_context.replay('shop.orders/orders', '-infinity');\n});
becomes("SELECT command || ' ' || entity || ' ' || (total > 2000) || ' ' || (done <= total) FROM guest_context.pg_stat_progress_guest_context WHERE pid = $pid",
	'replay shop.orders true true', 'the progress of a replay that waits for a lock');
my ($reader) = grep { /^\d+$/ } split /\n/, qx(pgrep -P $pid -f guest_context_reader);
ok($reader, 'which has a reader of its own');
sql("SELECT pg_cancel_backend($pid)");
becomes("SELECT state FROM pg_stat_activity WHERE pid = $pid", 'idle', 'cancelled');
ok(!kill(0, $reader), 'and its reader is gone');
$session->query_safe('ROLLBACK');
$session->quit;
$replayer->quit;

# --- a topic whose start is gone, and one that is another

my ($low) = $kafka->delete_records('orders', 0, 300);
$out = '';
$node->psql('postgres', q{SET ROLE app; SELECT guest_context.replay('shop.orders/orders', '-infinity')}, stdout => \$out, stderr => \$err);
like($err, qr/NOTICE:  records of partition 0 before offset 300 are gone/, 'a notice names the first offset that is there');
cmp_ok($out, '>', 1000, 'and what is there is applied');
$node->psql('postgres', qq{SET ROLE app; SELECT guest_context.replay('shop.orders/orders', '$half')}, stderr => \$err);
unlike($err // '', qr/NOTICE/, 'none where nothing is missing');
app(q{SELECT guest_context.pause('shop.orders/orders')});
$kafka->delete_topic('orders');
like(app_fails(q{SELECT guest_context.replay('shop.orders/orders', '-infinity')}), qr/could not replay changelog .*topic "orders" does not exist|no such topic|nknown topic/, 'a topic that is not there');
$kafka->create_topic('orders', partitions => 2);
my $pad = 'x' x 2000;
$kafka->produce('orders', [ map { order("n$_", 'OTHER', qq(2024-03-01T00:00:00Z","pad":"$pad), $_) } 1 .. 6000 ]);
like(app_fails(q{SELECT guest_context.replay('shop.orders/orders', '-infinity')}), qr/cannot replay changelog "shop.orders\/orders": topic replaced/, 'another topic of the same name');
is(app(q{SELECT count(*) FROM shop.orders WHERE status = 'OTHER'}), '0', 'of which nothing is applied');
app(q{SELECT guest_context.drop_changelog('shop.orders/orders')});

# --- files

my $journal = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $journal;
mkdir "$journal/orders" or die "$journal/orders: $!";
open(my $f, '>', "$journal/orders/0.jsonl") or die $!;
printf $f qq({"key":"f%d","ts":%d,"value":{"ref":"f%d","status":"FILE","total":%d,"modifiedAt":"2024-05-01T00:00:00Z"}}\n), $_, 1711975000000 + $_ * 1000, $_, $_ for 1 .. 2000;
close $f;
sql(qq{CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$journal'); GRANT USAGE ON FOREIGN SERVER journal TO app});
app(q{SELECT guest_context.create_changelog('shop.orders', 'journal', 'orders', name => 'journal')});
becomes(q{SELECT count(*) FROM shop.orders WHERE status = 'FILE'}, '2000', 'a journal', 60);
$truth = truth();
app(q{DELETE FROM shop.orders_versions WHERE gc_dataset = 0 AND status = 'FILE' AND total % 3 = 0});
is(replay('-infinity', 'journal'), '2000', 'replayed');
is(truth(), $truth, 'is back');
is(app(q{SELECT guest_context.replay('journal', to_timestamp(1711975000 + 1991))}), '10', 'since a time');

# --- no news

app(q{SELECT guest_context.create_changelog('shop.orders', 'events', 'orders', name => 'again')});
becomes(q{SELECT count(*) FROM shop.orders WHERE status = 'OTHER'}, '6000', 'the new topic, by a changelog of its own', 60);
app(q{SELECT guest_context.pause('again')});
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('SET ROLE app; BEGIN; LOCK TABLE shop.orders_speed IN SHARE MODE');
$replayer = $node->background_psql('postgres', on_error_stop => 0);
$replayer->query_safe('SET ROLE app');
$pid = $replayer->query_safe('SELECT pg_backend_pid()');
$replayer->query_until(qr/begun/, qq{\\echo begun\nSELECT guest_context.replay('again', '-infinity');\n});
becomes("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid", 'Lock', 'a replay that has begun to write');
($reader) = grep { /^\d+$/ } split /\n/, qx(pgrep -P $pid -f guest_context_reader);
kill 'STOP', $reader;
$blocker->query_safe('ROLLBACK');
$blocker->quit;
becomes("SELECT state FROM pg_stat_activity WHERE pid = $pid", 'idle', 'it does not wait for ever for more', 120);
like(slurp_file($node->logfile), qr/ERROR:  could not replay changelog "again": no news for 30 seconds of partition \d from offset \d+ on/, 'and says where it was');
is(app(q{SELECT count(*) FROM shop.orders_versions WHERE status = 'OTHER'}), '6000', 'nothing of it is left');
ok(!kill(0, $reader), 'nor its reader');
is(replay('-infinity', 'again'), '6000', 'the next one goes through');

# --- a changelog is dropped while a replay of it goes on, which has dead letters to bury again
$kafka->create_topic('doomed');
$kafka->produce('doomed', [ [ 'b4', 'no json' ] ]);
app(q{SELECT guest_context.create_changelog('shop.orders', 'events', 'doomed', 'doomed')});
becomes(q{SELECT count(*) FROM guest_context.dead_letter WHERE changelog = 'doomed'}, '1', 'a changelog with a dead letter');
$replayer->quit;
$replayer = $node->background_psql('postgres', on_error_stop => 0);
$replayer->query_safe(q{SET ROLE app; BEGIN; SELECT guest_context.replay('doomed', 'infinity')});
my $dropper = $node->background_psql('postgres');
$dropper->query_safe('SET ROLE app');
$pid = $dropper->query_safe('SELECT pg_backend_pid()');
$dropper->query_until(qr/begun/, qq{\\echo begun\nSELECT guest_context.drop_changelog('doomed');\n});
becomes("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid", 'Lock', 'dropping it waits for the replay');
like($replayer->query(q{SELECT guest_context.replay('doomed', '-infinity')}), qr/^\d+$/, 'which goes through, without a deadlock');
$replayer->query('COMMIT');
becomes(q{SELECT count(*) FROM guest_context.changelog WHERE changelog = 'doomed'}, '0', 'then it is dropped');
$dropper->quit;
$replayer->quit;

# --- a partition that somebody has detached: the status says what to run, and that goes on
$kafka->create_topic('detached');
app(q{SELECT guest_context.create_changelog('shop.orders', 'events', 'detached', 'detached')});
my $leaf = sql(q{SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'shop.orders_speed'::regclass AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), inhrelid) ~ to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')});
app("ALTER TABLE shop.orders_speed DETACH PARTITION $leaf");
$kafka->produce('detached', [ [ 'd1', '{"ref":"d1","status":"DETACHED","modified_at":"2024-03-24T12:20:01Z"}' ] ]);
becomes(q{SELECT state FROM guest_context.status WHERE changelog = 'detached'}, 'halted', 'a partition was detached: halted');
my $next = sql(q{SELECT split_part(message, E'\n', 2) FROM guest_context.status WHERE changelog = 'detached'});
like($next, qr/^ALTER TABLE .* ATTACH PARTITION .*; SELECT guest_context.resume\('detached'\);$/, 'with what is to be run');
app($next);
becomes(q{SELECT count(*) FROM shop.orders WHERE ref = 'd1'}, '1', 'and that goes on');
$node->stop;
done_testing();
