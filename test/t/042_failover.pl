# F2, F3, F4: a standby that is promoted with less than the primary had, the primary that lives on beside it, one that is
# missing, and a backup that is older than what Kafka keeps: offsets are where the rows end, so Kafka refills what is missing, or
# the changelog halts and names what it cannot.
use strict;
use warnings;

use Changelogs qw(:DEFAULT :items);
use Kafka;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $primary = changelogs_node($kafka, 'wal_level = replica', 'max_wal_senders = 5', 'hot_standby = on');
items_entity();
app(q{SELECT guest_context.alter_entity('shop.items', overlap => '0')});
my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

my $produced = 0;
my $partitions = 3;
sub more { my ($n) = @_; $kafka->produce('log', [ map { $produced++; at($produced % $partitions, "r$produced", $produced) } 1 .. $n ]) }

# Every record that there is, once, and the position behind it.
sub complete
{
	my ($name) = @_;
	becomes(q{SELECT count(*) FROM shop.items WHERE ref ~ '^r'}, "$produced", "$name: every record is there", 90);
	is(sql(q{SELECT count(*) FROM (SELECT gc_source, gc_partition, gc_offset FROM shop.items_speed GROUP BY 1, 2, 3 HAVING count(*) > 1) d}), '0', "$name: once");
	is(sql(q{SELECT string_agg(DISTINCT r, ',') FROM (SELECT CASE WHEN ref = 'r' || n THEN 'as produced' ELSE ref END AS r FROM shop.items) r}), 'as produced', "$name: as it was produced");
	becomes(q{SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition) FROM guest_context.offsets('shop.items')},
		join(',', map { "$_:" . $kafka->high_watermark('log', $_) } 0 .. $partitions - 1), "$name: the position is the end");
}

$kafka->create_topic('log', partitions => $partitions);
more(30);
changelog('log');
on_node($primary);
complete('primary');
$primary->backup('old');
more(30);
complete('primary, after the backup');
$primary->backup('new');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'new', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
on_node($standby);
is(sql(q{SELECT count(*) FROM shop.items}), '60', 'a standby has the same');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'guest_context%'}), '0', 'and no worker');
lap('standby');

# --- F2: it has not got what came last, and is promoted

$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
$standby->reload;
becomes(q{SELECT count(*) FROM pg_stat_wal_receiver}, '0', 'the standby is cut off');
more(30);
on_node($primary);
complete('primary, alone');
on_node($standby);
is(sql(q{SELECT count(*) || ' ' || (SELECT sum(next_offset) FROM guest_context.offsets('shop.items')) FROM shop.items}), '60 60', 'rows and offsets are equally behind');
$standby->promote;
complete('promoted');
becomes(status('log'), 'running', 'promoted: running');
lap('promoted');

# --- F3: the old one lives on

more(30);
complete('promoted, beside the old one');
on_node($primary);
complete('the old one, beside it');
becomes(status('log'), 'running', 'the old one: running');
$primary->stop('immediate');
on_node($standby);
more(10);
complete('promoted, alone');
lap('two primaries');

# --- F4: a backup from before that, and Kafka has deleted what came next

$kafka->delete_records('log', $_, 25) for 0 .. $partitions - 1;
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($primary, 'old');
$restored->start;
on_node($restored);
happens(status('log'), qr/^halted data loss: offsets 10 to 24 of partition 0 are gone, and some of 2 other partitions .*\nSELECT guest_context.accept_data_loss\('shop.items\/log', 0/,
	'a backup that is older than what Kafka keeps: halted, with the range', 60);
is(sql(q{SELECT count(*) FROM shop.items}), '30', 'what it holds is there');
app(q{SELECT guest_context.accept_data_loss('shop.items/log', NULL, 'restored from an old backup')});
becomes(q{SELECT count(*) FROM shop.items}, $produced - 3 * 15, 'what Kafka has left is read');
is(sql(q{SELECT string_agg(partition || ':' || from_offset || '-' || to_offset, ',' ORDER BY partition) FROM guest_context._gap}), '0:10-25,1:10-25,2:10-25', 'what is missing is known');

# the way back: a snapshot of the whole, cut after the gap, from where the records come from
my $values = join ',', map { "('r$_', $_, timestamptz '2024-03-24 11:00:00Z')" } 1 .. $produced;
my $dataset = app(q{SELECT guest_context.create_dataset('shop.items', clock_timestamp())});
app(qq{SELECT guest_context.load_dataset($dataset, 'shop.items', \$\$SELECT * FROM (VALUES $values) v (ref, n, modified_at)\$\$);
	SELECT guest_context.seal_dataset($dataset, '{"shop.items": $produced}')});
app(qq{SELECT count(*) FROM guest_context.verify_dataset($dataset)});
app(qq{SELECT guest_context.activate_dataset($dataset, force => true)});
is(sql(q{SELECT count(*) FROM shop.items}), $produced, 'with a new dataset all is there again');
becomes(status('log'), 'running', 'restored: running');
lap('restored');

# --- a commit that waits for a standby which is not there

sql(q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
$restored->reload;
more(3);
happens(status('log'), qr/^waiting no sign of life from its worker since /, 'a synchronous standby is missing: waiting', 60);
sql(q{ALTER SYSTEM RESET synchronous_standby_names});
$restored->reload;
shows("r$produced", $produced, 'without it the commit comes to its end');
becomes(status('log'), 'running', 'and it runs');
lap('synchronous');
$_->stop for $restored, $standby;
done_testing();
