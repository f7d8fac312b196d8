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
is(app(q{SELECT count(*) FROM (SELECT gc_partition, gc_offset FROM shop.orders_speed GROUP BY 1, 2 HAVING count(*) > 1) d}), '0', 'every record once');

$node->stop;
done_testing();
