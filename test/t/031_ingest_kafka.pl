# B7, B8, B9, B10, B14, C8, C9, C10: change records from a real Kafka into entities: partitions, producers,
# mappings, envelopes, compression, transactions and compaction.
use strict;
use warnings;

use Changelogs;
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $node = changelogs_node($kafka);
app(q{
	CREATE TYPE shop.guest_shape AS (ref text, first_name text, modified_at timestamptz);
	CREATE TYPE shop.order_shape AS (ref text, guest_ref text, status text, total numeric, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.guests', 'shop.guest_shape');
	SELECT guest_context.create_entity('shop.orders', 'shop.order_shape', parent => 'shop.guests', parent_ref => '{guest_ref}');
});

sub status { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.items/$topic'" }

sub order
{
	my ($ref, $status, $time, %more) = @_;
	$time //= '2024-03-24T12:20:01Z';
	my $total = $more{total} // 80;
	return qq({"ref":"$ref","guestRef":"g1","status":"$status","total":$total,"modifiedAt":"$time"});
}

# The status of a changelog, and of an idle one: nothing behind.
sub idle
{
	my ($changelog, $name) = @_;
	return becomes(qq{SELECT concat_ws(' ', state, lag, behind) FROM guest_context.status WHERE changelog = '$changelog'}, 'running 0 00:00:00', $name);
}

# --- what is there before the changelog, by Java's producer, and what comes

$kafka->create_topic('guests');
$kafka->create_topic('orders', partitions => 4);
$kafka->produce('guests', [ [ 'g1', '{"ref":"g1","firstName":"John","modifiedAt":"2024-03-24T12:18:19Z"}' ] ]);
$kafka->java_produce('orders', [
	(map { [ "j$_", order("j$_", 'OLD') ] } 1 .. 40),
	(map { [ "j$_", order("j$_", 'NEW', '2024-03-25T00:00:00Z') ] } 1 .. 20),
	[ 'j40', undef ] ], 'compression.type' => 'lz4');
app(q{SELECT guest_context.create_changelog('shop.guests', 'events', 'guests')});
app(q{SELECT guest_context.create_changelog('shop.orders', 'events', 'orders')});
becomes(q{SELECT string_agg(status || n, ',' ORDER BY status) FROM (SELECT status, count(*) AS n FROM shop.orders GROUP BY 1) o}, 'NEW20,OLD19',
	'what Java wrote into four partitions is there, the newest of each, without the deleted one');
is(app(q{SELECT sum(next_offset) FROM guest_context.offsets('shop.orders')}), '61', 'all of it');
is(app(q{SELECT count(DISTINCT gc_partition) FROM shop.orders_speed}), '4', 'from all partitions');
idle('shop.orders/orders', 'running, nothing behind');
my @where = $kafka->produce('orders', [ [ 'j30', order('j30', 'KCAT', '2024-03-26T00:00:00Z') ] ]);
is(app("SELECT guest_context.wait_for('shop.orders', 'orders', $where[0][0], $where[0][1])"), 't', 'wait_for what has just been produced');
is(app(q{SELECT status FROM shop.orders WHERE ref = 'j30'}), 'KCAT', 'is to be read at once');
$kafka->kcat(join('', map { "k$_\t" . order("k$_", 'KCAT2') . "\n" } 1 .. 1000), '-P', '-t', 'orders', '-K', "\t", '-z', $_) for qw(zstd gzip snappy);
becomes(q{SELECT count(*) FROM shop.orders WHERE status = 'KCAT2'}, '1000', 'batches of zstd, gzip and snappy');
idle('shop.orders/orders', 'and idle again');
# --- one topic of several kinds of records, with what stands in headers and keys

app(q{
	CREATE TYPE shop.event_shape AS (tenant text, ref text, amount numeric(12, 2), tags text[], doc jsonb, born date, source text, seen_at timestamptz, modified_at timestamptz);
	CREATE TYPE shop.note_shape AS (ref text, body text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.events', 'shop.event_shape', key => '{tenant,ref}');
	SELECT guest_context.create_entity('shop.notes', 'shop.note_shape');
});
$kafka->create_topic('mixed', partitions => 2);
app(q{SELECT guest_context.create_changelog('shop.events', 'events', 'mixed', filter => '{"$headers.kind": "event"}',
	mapping => '{"tenant": "$key.tenant", "ref": "$key.ref", "source": "$headers.source", "seen_at": "$timestamp"}')});
app(q{SELECT guest_context.create_changelog('shop.notes', 'events', 'mixed', filter => '{"$headers.kind": "note"}')});
my $time = '"modifiedAt":"2024-03-24T12:20:01Z"';
$kafka->produce('mixed', [
	[ '{"tenant":"a","ref":"1"}', qq({"amount":12.5,"tags":["x","y z"],"doc":{"a":1.50},"born":"2000-02-29",$time}), { kind => 'event', source => 'crm' }, 0, 1700000000000 ],
	[ '{"tenant":"b","ref":"1"}', qq({"amount":1,"doc":null,$time}), { kind => 'event' }, 1, 1700000000000 ],
	[ 'n1', qq({"ref":"n1","body":"hello",$time}), { kind => 'note' } ],
	[ 'n2', qq({"ref":"n2","body":"gone",$time}), { kind => 'note' } ],
	[ 'n2', undef, { kind => 'note' } ],
	[ 'x', 'not even json', { kind => 'other' } ] ]);
becomes(q{SELECT string_agg(ref || body, ',') FROM shop.notes}, 'n1hello', 'one topic feeds two entities, by a header; a delete has it too');
becomes(q{SELECT string_agg(concat_ws('/', tenant, ref, amount, tags, doc, born, source, seen_at), ' ' ORDER BY tenant) FROM shop.events},
	'a/1/12.50/{x,"y z"}/{"a": 1.50}/2000-02-29/crm/2023-11-14 22:13:20+00 b/1/1.00/2023-11-14 22:13:20+00',
	'typed columns, a key of two columns from a JSON key, headers, the record\'s time');
$kafka->produce('mixed', [ [ '{"tenant":"a","ref":"1"}', undef, { kind => 'event' }, 0 ] ]);
becomes(q{SELECT string_agg(tenant, ',') FROM shop.events}, 'b', 'a tombstone whose key is JSON');
is(sql(q{SELECT string_agg(concat_ws('; ', changelog, convert_from(key, 'UTF8'), message, detail), E'\n') FROM guest_context.dead_letter}), '', 'and what is for neither is no dead letter');

# --- Debezium

app(q{CREATE TYPE shop.row_shape AS (id bigint, name text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.rows', 'shop.row_shape', key => '{id}');
	SELECT guest_context.create_changelog('shop.rows', 'events', 'dbz', envelope => 'debezium', mapping => '{"modified_at": {"path": "$.updated", "unit": "ms"}}')});
$kafka->create_topic('dbz');
sub change
{
	my ($op, $id, $name, $ms) = @_;
	my $row = defined $name ? qq({"id":$id,"name":"$name","updated":$ms}) : 'null';
	my ($before, $after) = $op eq 'd' ? (qq({"id":$id,"name":"","updated":0}), 'null') : ('null', $row);
	return [ qq({"id":$id}), qq({"op":"$op","before":$before,"after":$after,"source":{"ts_ms":$ms}}) ];
}
$kafka->produce('dbz', [ change('r', 1, 'one', 1700000000000), change('c', 2, 'two', 1700000000000), change('u', 1, 'uno', 1700000001000),
	change('d', 2, undef, 1700000002000), [ '{"id":2}', undef ] ]);
becomes(q{SELECT string_agg(id || name, ',') FROM shop.rows}, '1uno', 'read, create, update and delete of Debezium');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter}), '0', 'its tombstone after a delete means nothing');
$kafka->produce('dbz', [ [ undef, '{"op":"t","before":null,"after":null,"source":{"ts_ms":1700000003000}}' ], change('c', 3, 'three', 1700000004000) ]);
happens(q{SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.rows/dbz'},
	qr/^halted source table was truncated \(partition 0 offset 5\)\nLoad a dataset [^\n]+, then skip this record\.\nSELECT guest_context\.skip\('shop\.rows\/dbz', 0, 5, 'reason'\);\nor mend it/,
	'a TRUNCATE halts, and says what comes before its skip');
app(q{SELECT guest_context.skip('shop.rows/dbz', 0, 5, 'a dataset was loaded')});
becomes(q{SELECT string_agg(id || name, ',' ORDER BY id) FROM shop.rows}, '1uno,3three', 'behind it it goes on');

# --- transactions

$kafka->create_topic('tx');
app(q{CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
	SELECT guest_context.create_changelog('shop.items', 'events', 'tx')});
sub item { my ($ref, $n) = @_; return [ $ref, qq({"ref":"$ref","n":$n,$time}) ] }
$kafka->transaction('commit', 'tx', [ item('c1', 1), item('c2', 1) ]);
$kafka->transaction('abort', 'tx', [ item('a1', 1), item('a2', 1) ]);
$kafka->transaction('commit', 'tx', [ item('c3', 1) ]);
$kafka->transaction('abort', 'tx', [ item('a3', 1) ]);
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items}, 'c1,c2,c3', 'committed transactions are read, aborted ones never');
idle('shop.items/tx', 'nothing is behind, though markers have offsets');
becomes(q{SELECT to_offset FROM guest_context._position p JOIN guest_context._changelog USING (changelog_id) WHERE topic = 'tx'}, $kafka->high_watermark('tx'), 'the position counts a trailing marker');
my $transaction = $kafka->transaction('open', 'tx', [ item('t1', 1) ]);
$kafka->produce('tx', [ item('t2', 1) ]);
happens(status('tx'), qr/^waiting an open transaction holds back partition 0 from offset \d+ on, since/, 'a hanging transaction is told');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref ~ '^t'}), '0', 'nothing behind its start is read');
$transaction->commit;
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE ref ~ '^t'}, 't1,t2', 'and all when it ends');
idle('shop.items/tx', 'running, nothing behind');

# --- compaction leaves gaps

$kafka->create_topic('compact', config => { 'cleanup.policy' => 'compact', 'segment.ms' => 100, 'min.cleanable.dirty.ratio' => 0.001, 'delete.retention.ms' => 0, 'max.compaction.lag.ms' => 100 });
$kafka->produce('compact', [ map { item('z' . ($_ % 3), $_) } 1 .. 30 ]);
sleep 0.3;
$kafka->produce('compact', [ item('z9', 1) ]);
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'compact')});
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE ref ~ '^z'}, 'z0,z1,z2,z9', 'a compacted topic');
idle('shop.items/compact', 'nothing is behind');
is(app(q{SELECT count(*) FROM (SELECT gc_partition, gc_offset FROM shop.orders_speed GROUP BY 1, 2 HAVING count(*) > 1) d}), '0', 'every record once');

$node->stop;
done_testing();
