# A6, A7, C12: what bounds disk. Dead letters up to a limit and, if wanted, for a time; space that is left for the WAL; a full
# tablespace. Nothing becomes a dead letter because of a disk, the offset stays, and it goes on by itself.
#
# Full disks are two small file systems in memory, which test/run mounts when root started it (GC_SMALL_DISKS). Who is not root
# gets the same states by a floor that lies above what is free.
use strict;
use warnings;

use Changelogs;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $journal = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $journal;
my $disks = $ENV{GC_SMALL_DISKS};
my $node = changelogs_node($journal, q{guest_context.batch_rows = 1000}, q{max_wal_size = '32MB'}, q{min_wal_size = '32MB'}, q{wal_level = replica}, q{max_wal_senders = 1}, q{max_replication_slots = 1});
my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

my %last;
sub line
{
	my ($topic, $value) = @_;
	my $n = ++$last{$topic};
	return sprintf qq({"key":"%s","value":{"ref":"%s","n":%s,"modifiedAt":"2024-03-24T12:20:01Z","pad":"%s"}}\n), "$topic$n", "$topic$n", $value, $topic eq 'disk' ? 'x' x 1900 : '';
}
sub append
{
	my ($topic, @values) = @_;
	mkdir "$journal/$topic";
	open(my $f, '>>', "$journal/$topic/0.jsonl") or die "$topic: $!";
	print $f map { line($topic, $_) } @values;
	close($f) or die "$topic: $!";
	return;
}
sub status { my ($name) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = '$name'" }
sub setting { my (%setting) = @_; sql(join '', map { "ALTER SYSTEM SET guest_context.$_ = '$setting{$_}';" } sort keys %setting); $node->reload }

app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, pad text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
	SELECT guest_context.create_entity('shop.large', 'shop.item_shape');
	ALTER TABLE shop.items_versions ADD CHECK (gc_deleted OR n < 1000);
});

# --- C12: a limit of dead letters

setting(dead_letter_limit => 5);
append('c', 1, '"x"', 2000, '"x"', 3, 2000, '"x"', 4, '"x"', 5, '"x"');
app(q{SELECT guest_context.create_changelog('shop.items', 'events', 'c', name => 'c')});
happens(status('c'), qr/^halted 5 dead letters are waiting, as many as guest_context\.dead_letter_limit allows \(partition 0 offset (\d+)\)\nSELECT \* FROM guest_context\.dead_letter WHERE changelog = 'c'; requeue or discard them, then SELECT guest_context\.resume\('c'\);/,
	'C12: at the limit it halts, with the number and what to run');
is(sql(q{SELECT string_agg(n::text, ',' ORDER BY n) FROM shop.items}), '1,3,4', 'C12: what lies before it is there');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter}), '5', 'C12: and as many dead letters as may be, of the decoder and of a CHECK');
my $halted = sql(status('c'));
app(q{SELECT guest_context.resume('c')});
happens(q{SELECT changes || ' ' || halted FROM guest_context._changelog_state}, qr/^1 true/, 'C12: resumed without room it halts again');
is(sql(status('c')), $halted, 'C12: for the same reason, at the same record');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter}), '5', 'C12: and has not grown');
app(q{SELECT guest_context.discard(array_agg(id)) FROM (SELECT id FROM guest_context.dead_letter ORDER BY id LIMIT 1) d});
app(q{SELECT guest_context.resume('c')});
becomes(q{SELECT string_agg(n::text, ',' ORDER BY n) FROM shop.items}, '1,3,4,5', 'C12: with room for one it goes on to the next');
happens(status('c'), qr/^halted 5 dead letters/, 'C12: and halts there');
setting(dead_letter_limit => 0);
app(q{SELECT guest_context.resume('c')});
becomes(status('c'), 'running', 'C12: without a limit it goes on');
append('c', ('"x"') x 100, 6);
becomes(q{SELECT count(*) FROM guest_context.dead_letter}, '106', 'C12: however many there are') ;
setting(dead_letter_limit => 10000);
lap('limit');

# --- C12: and a time

is(sql(q{SELECT count(*) FROM guest_context.run_maintenance() WHERE action = 'dead letters'}), '0', 'C12: they are kept for ever');
setting(dead_letter_retention => '1d');
sql(q{UPDATE guest_context._dead_letter SET at = at - interval '2 days' WHERE dead_letter_id IN (SELECT dead_letter_id FROM guest_context._dead_letter ORDER BY 1 LIMIT 40)});
like(sql(q{SELECT string_agg(detail, '') FROM guest_context.run_maintenance() WHERE action = 'dead letters'}), qr/discarded 40 dead letters/, 'C12: unless a time is set: maintenance discards older ones');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter}), '66', 'C12: those, and no others');
is(sql(q{SELECT concat_ws(' ', role, object, reason, detail->>'dead_letters', (detail->>'until')::timestamptz < now() - interval '1 day') FROM guest_context.audit WHERE verb = 'discard' ORDER BY audit_id DESC LIMIT 1}),
	'app c guest_context.dead_letter_retention 40 t', 'C12: and the audit says how many');
setting(dead_letter_retention => '0');

# --- what was given up

app(q{SELECT guest_context.pause('c')});
my $next = sql(q{SELECT next_offset FROM guest_context.offsets('shop.items')});
append('c', 7, 8);
my $through = $next + 10;
app("SELECT guest_context.skip('c', 0, $through, 'for a test')");
is(sql(q{SELECT concat_ws(' ', changelog, topic, partition, from_offset, to_offset, reason, role) FROM guest_context.gap}), "c c 0 $next " . ($through + 1) . ' for a test app', 'the gap is listed');
is(sql(q{SET ROLE pg_monitor; SELECT count(*) FROM guest_context.gap}), '1', 'for monitoring too');
is(sql(q{CREATE ROLE nobody_special; SET ROLE nobody_special; SELECT count(*) FROM guest_context.gap}), '0', 'and not for everybody');
app(q{SELECT guest_context.drop_changelog('c')});
lap('retention');

# --- A7: little space is left for the WAL

if ($disks)
{
	ok(-d "$disks/wal" && -d "$disks/data", 'A6, A7: needs root: the small file systems could be mounted');
	$node->stop;
	# with checksums, which are there from 18 on, whoever looks at new rows writes their pages to the WAL: more than is left
	system('pg_checksums', '--disable', '-D', $node->data_dir);
	system_or_bail('cp', '-a', $node->data_dir . '/pg_wal', "$disks/wal/pg_wal");
	system_or_bail('rm', '-rf', $node->data_dir . '/pg_wal');
	symlink "$disks/wal/pg_wal", $node->data_dir . '/pg_wal' or die "symlink: $!";
	$node->start;
}
setting(free_space_floor => '48MB') if $disks;
append('disk', (1) x 10);
app(q{SELECT guest_context.create_changelog('shop.large', 'events', 'disk', name => 'disk')});
becomes(q{SELECT count(*) FROM shop.large_speed}, '10', 'A7: with room it is read');
becomes(status('disk'), 'running', 'A7: running');
my $from = -s $node->logfile;
if ($disks)
{
	# WAL that somebody else keeps, so that each record of ours takes space for good
	sql(q{SELECT pg_create_physical_replication_slot('kept', true)});
	append('disk', (1) x 60_000);
}
else
{
	setting(free_space_floor => '2147483647MB');
	sleep 1.5;
	append('disk', (1) x 5000);
}
happens(status('disk'), qr/^waiting less than \d+ MB free on the file system of the WAL \(guest_context\.free_space_floor\)/, 'A7: below the floor it waits', 120);
my $written = sql(q{SELECT count(*) FROM shop.large_speed});
cmp_ok($written, '<', $last{disk}, "A7: not all is written: $written of $last{disk}");
my $position = sql(q{SELECT next_offset FROM guest_context.offsets('shop.large')});
sleep 2;
is(sql(q{SELECT count(*) FROM shop.large_speed}), $written, 'A7: nothing is written while it waits');
is(sql(q{SELECT next_offset FROM guest_context.offsets('shop.large')}), $position, 'A7: the offset stays');
sql(q{CREATE TABLE others (a int); INSERT INTO others SELECT generate_series(1, 1000)});
is(sql(q{SELECT count(*) FROM others}), '1000', 'A7: others have space to write');
sub log_lines { my ($pattern) = @_; my @lines = grep { /$pattern/ } split /\n/, slurp_file($node->logfile, $from); return scalar @lines }
is(log_lines(qr/changelog "disk" waits: less than/), 1, 'A7: one line in the log');
is(log_lines(qr/PANIC|terminated by signal/), 0, 'A7: and the server lives');
if ($disks) { sql(q{SELECT pg_drop_replication_slot('kept'); CHECKPOINT}) } else { setting(free_space_floor => '0') }
if ($disks)
{
	# what was kept goes with checkpoints, and the rest of the records makes new WAL
	my $until = time + 180;
	while (time < $until && sql(q{SELECT count(*) FROM shop.large_speed}) < $last{disk}) { sql('CHECKPOINT'); sleep 0.5 }
}
becomes(q{SELECT count(*) || '/' || count(DISTINCT ref) FROM shop.large_speed}, "$last{disk}/$last{disk}", 'A7: with space it goes on by itself, each record once', 120);
becomes(status('disk'), 'running', 'A7: running');
is(log_lines(qr/changelog "disk" goes on/), log_lines(qr/changelog "disk" waits/), 'A7: as often as it waited it went on');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter WHERE changelog = 'disk'}), '0', 'A7: no dead letters');
app(q{SELECT guest_context.drop_changelog('disk')});
setting(free_space_floor => '0');
lap('A7');

# --- A6: a tablespace is full

my $data = $disks ? "$disks/data/tablespace" : PostgreSQL::Test::Utils::tempdir();
mkdir $data if $disks;
sql(qq{CREATE TABLESPACE small LOCATION '$data'; GRANT CREATE ON TABLESPACE small TO app});
app(q{SET default_tablespace = small; SELECT guest_context.create_entity('shop.tight', 'shop.item_shape')});
is(sql(q{SELECT t.spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.relname ~ '^tight_speed_p' AND c.relkind = 'r' LIMIT 1}), 'small', 'A6: partitions are in a tablespace of their own');
$last{disk} = 0;
unlink "$journal/disk/0.jsonl";
append('disk', (1) x 10);
append('c', (9) x 10);
app(q{SELECT guest_context.create_changelog('shop.tight', 'events', 'disk', name => 'tight'); SELECT guest_context.create_changelog('shop.items', 'events', 'c', name => 'beside')});
becomes(q{SELECT count(*) FROM shop.tight_speed}, '10', 'A6: with room it is read');
$from = -s $node->logfile;
my $what = $disks ? qr/could not extend file .*No space left/ : qr/less than/;
if ($disks)
{
	open(my $f, '>', "$data/filler") or die "filler: $!";
	for (1 .. 1000) { syswrite($f, 'x' x 65536) // last }
	close $f;
}
else { setting(free_space_floor => '2147483647MB'); sleep 1.5 }
append('disk', (1) x 2500);
happens(status('tight'), qr/^waiting $what/, 'A6: a full tablespace: waiting', 60);
# what a failed batch has added to the files may do for a part of it, so it may go on once more
sleep 3;
happens(status('tight'), qr/^waiting $what/, 'A6: and stays so');
$position = sql(q{SELECT next_offset FROM guest_context.offsets('shop.tight')});
if ($disks)
{
	append('c', 10);
	becomes(q{SELECT count(*) FROM shop.items WHERE n = 10}, '1', 'A6: the other changelog runs on');
}
sleep 3;
is(sql(q{SELECT next_offset FROM guest_context.offsets('shop.tight')}), $position, 'A6: the offset stays');
like(sql(status('tight')), qr/^waiting $what/, 'A6: it still waits');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter WHERE changelog = 'tight'}), '0', 'A6: nothing is a dead letter');
is(log_lines(qr/changelog "tight" waits/), log_lines(qr/changelog "tight" goes on/) + 1, 'A6: one line in the log each time');
is(log_lines(qr/ERROR:/), 0, 'A6: and no errors');
if ($disks) { unlink "$data/filler" or die "filler: $!" } else { setting(free_space_floor => '0') }
becomes(q{SELECT count(*) || '/' || count(DISTINCT ref) FROM shop.tight_speed}, "$last{disk}/$last{disk}", 'A6: when there is space it goes on, each record once', 60);
becomes(status('tight'), 'running', 'A6: running');
lap('A6');
$node->stop;
done_testing();
