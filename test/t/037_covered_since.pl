# B3, B4, B11, F4, G5: what never came, because a changelog began behind it, because it was lost upstream, or because its topic
# was replaced: no snapshot is activated, and none rolled back to, that would need it.
use strict;
use warnings;

use Changelogs;
use Kafka;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = Kafka->start;
my $node = changelogs_node($kafka);
my $journal = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $journal;
sql(qq{CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$journal'); GRANT USAGE ON FOREIGN SERVER journal TO app});
app(q{CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz)});

# Records of the hours 0, 1, 2 .. of 2024-03-24; their times are the records' too.
my $zero = 1711238400;
sub payload { my ($hour) = @_; return sprintf '{"ref":"r%d","n":%d,"modifiedAt":"2024-03-24T%02d:00:00Z"}', $hour, $hour, $hour }
sub line { my ($hour) = @_; return sprintf qq({"key":"r%d","value":%s,"ts":%d}\n), $hour, payload($hour), 1000 * ($zero + 3600 * $hour) }
sub record { my ($hour) = @_; return [ "r$hour", payload($hour), {}, 0, 1000 * ($zero + 3600 * $hour) ] }

mkdir "$journal/items" or die "$journal/items: $!";
open my $file, '>', "$journal/items/0.jsonl" or die "$journal/items/0.jsonl: $!";
print $file map { line($_) } 0 .. 9;
close $file or die "$journal/items/0.jsonl: $!";
my $third = length join '', map { line($_) } 0 .. 2;
my $fifth = length join '', map { line($_) } 0 .. 4;
my $end = -s "$journal/items/0.jsonl";

# An entity of its own, a root without overlap, and its changelog.
sub reads
{
	my ($entity, $server, $topic, $more) = @_;
	app("SELECT guest_context.create_entity('shop.$entity', 'shop.item_shape', overlap => '0');
		SELECT guest_context.create_changelog('shop.$entity', '$server', '$topic', name => '$entity'" . ($more ? ", $more" : '') . ')');
	return;
}
sub next_is { my ($entity, $offset) = @_; return becomes("SELECT next_offset FROM guest_context.offsets('shop.$entity')", $offset, "$entity: read to $offset") }
sub since { my ($entity) = @_; return sql("SELECT covered_since AT TIME ZONE 'UTC' FROM guest_context.entity WHERE entity = 'shop.$entity'::regclass") }
sub clock { return sql(q{SELECT clock_timestamp() AT TIME ZONE 'UTC'}) }
sub between
{
	my ($from, $entity, $name) = @_;
	my $since = since($entity);
	return is(sql("SELECT '$since'::timestamp BETWEEN '$from' AND clock_timestamp() AT TIME ZONE 'UTC'"), 't', "$name ($since)");
}

# A sealed snapshot of these hours as of a time.
sub snapshot
{
	my ($entity, $as_of) = @_;
	my $dataset = app("SELECT guest_context.create_dataset('shop.$entity', $as_of)");
	app("SELECT guest_context.load_dataset($dataset, 'shop.$entity', \$\$SELECT 'r' || h AS ref, h AS n, timestamptz '2024-03-24T00:00:00Z' + h * interval '1 hour' AS modified_at FROM generate_series(0, 9) h\$\$);
		SELECT guest_context.seal_dataset($dataset)");
	return $dataset;
}

# --- where it begins

reads('whole', 'journal', 'items');
next_is('whole', $end);
is(since('whole'), '-infinity', 'a changelog that begins with the first record');
app(q{SELECT guest_context.create_dataset('shop.whole', '2024-03-24T00:00:00Z')});
reads('early', 'journal', 'items', q{start => '2024-01-01T00:00:00Z'});
next_is('early', $end);
is(since('early'), '-infinity', 'or at a time before that');

reads('behind', 'journal', 'items', "start => '0:$third'");
next_is('behind', $end);
is(since('behind'), '2024-03-24 03:00:00', 'one that begins behind it: the time of its first record');
like(app_fails(q{SELECT guest_context.create_dataset('shop.behind', '2024-03-24T02:59:59Z')}),
	qr/records of entity "shop.behind" that it needs are gone\n.*It needs all records since 2024-03-24 02:59:59.*, and some from before 2024-03-24 03:00:00.* have never come: \[2024-03-24 02:59:59.*, 2024-03-24 03:00:00.*\) is not covered/,
	'no snapshot of before that, with the interval');
app(q{SELECT guest_context.create_dataset('shop.behind', '2024-03-24T03:00:00Z')});
reads('timed', 'journal', 'items', q{start => '2024-03-24T04:30:00Z'});
next_is('timed', $end);
is(since('timed'), '2024-03-24 05:00:00', 'one that begins at a time: that of the first record then');

my $before = clock();
reads('latest', 'journal', 'items', q{start => 'latest'});
next_is('latest', $end);
between($before, 'latest', 'one that begins at the end: its start');
is(sql(q{SELECT dropped_before FROM guest_context.entity WHERE entity = 'shop.latest'::regclass}), '-infinity', 'nothing has been dropped for that');

# --- elsewhere

app(q{SELECT guest_context.pause('whole'), guest_context.seek('whole', '0:0')});
app(qq{SELECT guest_context.pause('whole'), guest_context.seek('whole', '0:$fifth'), guest_context.resume('whole')});
next_is('whole', $end);
is(since('whole'), '-infinity', 'seek back and forth in what was read changes nothing');
sub age_ledger { sql(q{UPDATE guest_context._ledger SET at = at - interval '2 hours'}); app(q{SELECT guest_context.run_maintenance()}) }
sub old_rows { return sql(q{SELECT count(*) FROM guest_context._ledger l JOIN guest_context._changelog c USING (changelog_id) WHERE c.name = 'early' AND l.generation < c.generation}) }
app(qq{SELECT guest_context.pause('early'), guest_context.seek('early', '0:$fifth')});
age_ledger();
is(old_rows(), '1', 'maintenance keeps how far it was read before a seek');
app(q{SELECT guest_context.resume('early')});
next_is('early', $end);
is(since('early'), '-infinity', 'so that is known hours later too');
age_ledger();
is(old_rows(), '0', 'and nothing is kept any longer');
app(q{SELECT guest_context.create_entity('shop.jumps', 'shop.item_shape', overlap => '0');
	SELECT guest_context.create_changelog('shop.jumps', 'journal', 'jumps', name => 'jumps')});
mkdir "$journal/jumps" or die "$journal/jumps: $!";
open $file, '>', "$journal/jumps/0.jsonl" or die "$journal/jumps/0.jsonl: $!";
print $file line(0);
close $file or die "$journal/jumps/0.jsonl: $!";
next_is('jumps', length line(0));
app(q{SELECT guest_context.pause('jumps')});
open $file, '>>', "$journal/jumps/0.jsonl" or die "$journal/jumps/0.jsonl: $!";
print $file map { line($_) } 1 .. 9;
close $file or die "$journal/jumps/0.jsonl: $!";
app(qq{SELECT guest_context.seek('jumps', '0:$fifth'), guest_context.resume('jumps')});
next_is('jumps', $end);
is(since('jumps'), '2024-03-24 05:00:00', 'seek over what was not read: the time of the record behind it');
app(qq{SELECT guest_context.pause('jumps'), guest_context.seek('jumps', '0:$third'), guest_context.resume('jumps')});
next_is('jumps', $end);
is(since('jumps'), '2024-03-24 05:00:00', 'it is never taken back');

# --- activation and rollback

my @dataset = (snapshot('whole', q{now() - interval '3 hours'}), snapshot('whole', q{now() - interval '2 hours'}), snapshot('whole', q{now() - interval '1 hour'}));
app("SELECT count(*) FROM guest_context.verify_dataset($_); SELECT guest_context.activate_dataset($_, force => true)") for @dataset[ 0, 1 ];
is(app("SELECT ok FROM guest_context.verify_dataset($dataset[2]) WHERE check_name = 'coverage'"), 't', 'a snapshot of an hour ago is covered');
$before = clock();
app(q{SELECT guest_context.pause('whole'), guest_context.accept_topic('whole', 'made anew'), guest_context.resume('whole')});
next_is('whole', $end);
between($before, 'whole', 'accept_topic: the time of the call');
is(app("SELECT ok FROM guest_context.verify_dataset($dataset[2]) WHERE check_name = 'coverage'"), 'f', 'now that snapshot is not covered');
my $gone = qr/records of entity "shop.whole" that it needs are gone\n.*some from before .* have never come/;
like(app_fails("SELECT guest_context.activate_dataset($dataset[2], force => true)"), $gone, 'and cannot be activated, whatever is forced');
like(app_fails(q{SELECT guest_context.rollback_dataset('shop.whole', force => true)}), $gone, 'nor can one be rolled back to');
my $new = snapshot('whole', 'now()');
is(app("SELECT ok FROM guest_context.verify_dataset($new) WHERE check_name = 'coverage'"), 't', 'one of now is');
app("SELECT guest_context.activate_dataset($new, force => true)");
is(app(q{SELECT dataset FROM guest_context.entity WHERE entity = 'shop.whole'::regclass}), $new, 'active');

# an entity that is younger than a dataset: with that and without it there are the records that have come
app(q{CREATE TYPE shop.child_shape AS (ref text, parent text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.parent', 'shop.item_shape', overlap => '0')});
my $older = snapshot('parent', q{now() - interval '1 hour'});
app(q{SELECT guest_context.create_entity('shop.child', 'shop.child_shape', parent => 'shop.parent', parent_ref => '{parent}');
	SELECT guest_context.create_changelog('shop.child', 'journal', 'items', name => 'child', start => 'latest')});
next_is('child', $end);
isnt(since('child'), '-infinity', 'a child that begins at the end');
is(app("SELECT count(*) FROM guest_context.verify_dataset($older); SELECT guest_context.activate_dataset($older)"), "5\n", 'does not keep a dataset from before it from being activated');
my $younger = app(q{SELECT guest_context.create_dataset('shop.parent', now())});
app(qq{SELECT guest_context.seal_dataset($younger, '{"shop.parent": 0, "shop.child": 0}'); SELECT count(*) FROM guest_context.verify_dataset($younger); SELECT guest_context.activate_dataset($younger, force => true)});
like(app_fails(q{SELECT guest_context.rollback_dataset('shop.parent')}), qr/records of entity "shop.child" that it needs are gone/, 'once one has spanned it, that is no way back');

# what is built from the truth needs nothing that has never come
app(q{SELECT guest_context.create_entity('shop.built', 'shop.item_shape', overlap => '1 day');
	SELECT guest_context.create_changelog('shop.built', 'journal', 'items', name => 'built', start => 'latest')});
next_is('built', $end);
app(q{SELECT guest_context.build_dataset('shop.built', activate => true)});
becomes(q{SELECT state || coalesce(message, '') FROM guest_context.dataset WHERE root = 'shop.built'::regclass}, 'active', 'a dataset is built and activated though its window begins before that');

# --- Kafka: trimmed before it began, and while it did not read

$kafka->create_topic('trimmed');
$kafka->produce('trimmed', [ map { record($_) } 0 .. 9 ]);
$kafka->delete_records('trimmed', 0, 4);
reads('trimmed', 'events', 'trimmed');
next_is('trimmed', 10);
is(since('trimmed'), '2024-03-24 04:00:00', 'the earliest record is not the first one: its time');
$kafka->create_topic('empty');
$kafka->produce('empty', [ map { record($_) } 0 .. 9 ]);
$kafka->delete_records('empty', 0, 10);
$before = clock();
reads('empty', 'events', 'empty');
next_is('empty', 10);
between($before, 'empty', 'all records are gone: the start');

$kafka->create_topic('loss', partitions => 2);
$kafka->produce('loss', [ record(0), [ 'x', payload(11), {}, 1, 1000 * $zero ] ]);
reads('loss', 'events', 'loss');
becomes(q{SELECT string_agg(next_offset::text, ',') FROM guest_context.offsets('shop.loss')}, '1,1', 'two partitions are read');
is(since('loss'), '-infinity', 'from the start');
app(q{SELECT guest_context.pause('loss')});
$kafka->produce('loss', [ (map { record($_) } 1 .. 9), map { [ 'x', payload($_), {}, 1, 1000 * ($zero + 3600 * $_) ] } 12 .. 15 ]);
$kafka->delete_records('loss', 0, 6);
$kafka->delete_records('loss', 1, 3);
app(q{SELECT guest_context.resume('loss')});
happens(q{SELECT state || message FROM guest_context.status WHERE changelog = 'loss'}, qr/^halteddata loss/, 'data loss halts');
is(since('loss'), '-infinity', 'nothing is accepted yet');
app(q{SELECT guest_context.accept_data_loss('loss', 0)});
is(since('loss'), '2024-03-24 06:00:00', 'accept_data_loss: the time of the first record that is left');
app(q{SELECT guest_context.accept_data_loss('loss', 1)});
is(since('loss'), '2024-03-24 14:00:00', 'the latest of several partitions');
becomes(q{SELECT string_agg(next_offset::text, ',') FROM guest_context.offsets('shop.loss')}, '10,5', 'and on it goes');
like(app_fails(q{SELECT guest_context.create_dataset('shop.loss', '2024-03-24T12:30:00Z')}), qr/some from before 2024-03-24 14:00:00/, 'no snapshot of before that');
app(q{SELECT guest_context.create_dataset('shop.loss', '2024-03-24T14:00:00Z')});

# accepted in the very moment of the halt
app(q{SELECT guest_context.pause('loss')});
$kafka->produce('loss', [ map { record($_) } 10 .. 19 ]);
$kafka->delete_records('loss', 0, 15);
app(q{SELECT guest_context.resume('loss')});
app(q{DO $$ BEGIN
	WHILE NOT EXISTS (SELECT FROM guest_context.status WHERE changelog = 'loss' AND state = 'halted') LOOP PERFORM pg_sleep(0.001); END LOOP;
	PERFORM guest_context.accept_data_loss('loss', 0);
	END $$});
becomes(q{SELECT string_agg(next_offset::text, ',') FROM guest_context.offsets('shop.loss')}, '20,5', 'what is accepted in the moment of the halt goes on too');
is(since('loss'), '2024-03-24 15:00:00', 'and has raised it');

# --- deletes that were compacted away before they were read

sub message { my ($changelog) = @_; return "SELECT state || ' ' || coalesce(message, '') FROM guest_context.status WHERE changelog = '$changelog'" }
my %compact = ('cleanup.policy' => 'compact', 'segment.ms' => 100, 'min.cleanable.dirty.ratio' => 0.001, 'max.compaction.lag.ms' => 100);
$kafka->create_topic('ghosts', config => { %compact, 'delete.retention.ms' => 1000 });
$kafka->create_topic('kept', config => { 'cleanup.policy' => 'compact' });
for my $topic (qw(ghosts kept))
{
	$kafka->produce($topic, [ [ 'r0', payload(0) ], [ 'r1', payload(1) ] ]);
	reads($topic, 'events', $topic);
	next_is($topic, 2);
	app("SELECT guest_context.pause('$topic')");
	$kafka->produce($topic, [ [ 'r0', undef ] ]);
}
my $until = time + 120;
my $left = 1;
while ($left && time < $until)
{
	sleep 1;
	$kafka->produce('ghosts', [ [ 'r2', payload(2) ] ]);
	$left = grep { !defined $_->{value} } $kafka->consume('ghosts');
}
is($left, 0, 'the tombstone of a topic that is not read is compacted away');
app(q{SELECT guest_context.resume('ghosts'), guest_context.resume('kept')});
happens(message('ghosts'), qr/^running deletes unproven since 2\d\d\d-.*: load a new dataset$/, 'which is told when it is read again');
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.ghosts}, 'r0,r1,r2', 'for what was deleted is there');
is(sql(q{SELECT covered_since > now() - interval '10 min' FROM guest_context.entity WHERE entity = 'shop.ghosts'::regclass}), 't', 'an older snapshot would not know of it either');
next_is('kept', 3);
is(sql(message('kept')), 'running ', 'where tombstones are kept for longer nothing is missing');
is(since('kept'), '-infinity', 'and every snapshot is covered');
is(sql(q{SELECT string_agg(ref, ',') FROM shop.kept}), 'r1', 'the delete has come');
app(q{SELECT guest_context.pause('ghosts'), guest_context.resume('ghosts')});
app(q{SELECT guest_context.build_dataset('shop.ghosts', activate => true)});
becomes(q{SELECT state || coalesce(message, '') FROM guest_context.dataset WHERE root = 'shop.ghosts'::regclass}, 'active', 'a dataset that is built from the truth');
like(sql(message('ghosts')), qr/deletes unproven/, 'does not know, nor does stopping it help');
my $snapshot = app(q{SELECT guest_context.create_dataset('shop.ghosts', now())});
app(qq{SELECT guest_context.load_dataset($snapshot, 'shop.ghosts', \$\$SELECT 'r1' AS ref, 1 AS n, timestamptz '2024-03-24T01:00:00Z' AS modified_at\$\$);
	SELECT guest_context.seal_dataset($snapshot); SELECT count(*) FROM guest_context.verify_dataset($snapshot);
	SELECT guest_context.activate_dataset($snapshot, force => true)});
becomes(message('ghosts'), 'running ', 'a snapshot does');
is(sql(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.ghosts}), 'r1', 'and it is gone');

# --- it travels in a dump

$node->command_ok([ 'pg_dump', '-f', "$journal/dump", '-d', $node->connstr('postgres') ], 'a dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', "$journal/dump" ], 'is restored');
is($node->safe_psql('restored', q{SELECT covered_since AT TIME ZONE 'UTC' FROM guest_context.entity WHERE entity = 'shop.loss'::regclass}), '2024-03-24 15:00:00', 'with it');
$node->stop;
done_testing();
