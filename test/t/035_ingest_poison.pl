# C8, C12, C14, C15, D3, E8, E9: floods of bad records, records that are too large or from the future; verbs that race with
# the worker; an extension and databases that go away under it.
use strict;
use warnings;

use Changelogs;
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $node = changelogs_node($kafka);
app(q{
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
});
sub item { my ($ref, $n, $time) = @_; $time //= '2024-03-24T12:20:01Z'; return [ $ref, qq({"ref":"$ref","n":$n,"modifiedAt":"$time"}) ] }
sub status { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.items/$topic'" }
sub changelog { my ($topic, $more) = @_; app("SELECT guest_context.create_changelog('shop.items', 'events', '$topic'" . ($more ? ", $more" : '') . ')') }
sub timed { my ($sql, $name) = @_; my $begun = time; $node->safe_psql('postgres', $sql); cmp_ok(time - $begun, '<', 2, $name) }

# --- a flood of records that cannot be read

$kafka->create_topic('flood', partitions => 2);
$kafka->kcat(join('', map { "f$_\tno json\n" } 1 .. 20_000), '-P', '-t', 'flood', '-K', "\t");
changelog('flood');
happens(status('flood'), qr/^halted more than half of the last records became dead letters/, 'a flood of bad records halts the changelog');
my $dead = sql(q{SELECT count(*) FROM guest_context.dead_letter});
cmp_ok($dead, '<=', 20_000, "with $dead dead letters");
is(sql(q{SELECT count(*) FROM guest_context.dead_letter d WHERE NOT EXISTS (SELECT FROM guest_context.offsets('shop.items') o WHERE o.partition = d.partition AND o.next_offset > d.record_offset)}),
	'0', 'each below the position');
app(q{SELECT guest_context.drop_changelog('shop.items/flood')});

# --- single bad ones

$kafka->create_topic('bad');
changelog('bad');
$kafka->produce('bad', [ item('a', 1), item('far', 1, '2924-01-01T00:00:00Z'), [ 'k' x 1_000_000, item('big', 1)->[1] ], [ undef, undef ],
	[ 'h', item('h', 1)->[1], [ map { ("h$_" => 'x') } 1 .. 2000 ] ], item('v' x 5000, 1), item('b', 1) ], 'message.max.bytes' => 4_000_000);
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items}, 'a,b', 'neighbours of bad records land');
is(sql(q{SELECT string_agg(record_offset || ' ' || sqlstate, ', ' ORDER BY record_offset) FROM guest_context.dead_letter}),
	'1 22008, 2 54000, 3 23502, 4 54000, 5 54000', 'far future, 1 MB of key, no key, too many headers, too long a key: dead letters');
is(sql(q{SELECT length(key) FROM guest_context.dead_letter WHERE record_offset = 2}), '1000000', 'whole');
app(q{SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter});

# --- ones that are found out one after the other: when they are read, when they are checked, in an index, by a trigger

app(q{
	CREATE TYPE shop.part_shape AS (ref text, item_ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.parts', 'shop.part_shape', parent => 'shop.items', parent_ref => '{item_ref}');
	ALTER TABLE shop.parts_versions ADD CHECK (n < 1000);
	CREATE FUNCTION shop.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n = 13 THEN RAISE SQLSTATE '22023'; END IF; RETURN NULL; END $$;
});
sub part { my ($ref, $n, $item) = @_; $item //= 'a'; return [ $ref, qq({"ref":"$ref","item_ref":"$item","n":$n,"modifiedAt":"2024-03-24T12:20:01Z"}) ] }
my $random = join '', map { chr(97 + (($_ * $_ * 7919) >> 3) % 26) . $_ } 1 .. 2000;
$kafka->create_topic('parts');
$kafka->produce('parts', [ map { $_ == 700 ? part("p$_", '"x"') : $_ == 900 ? part("p$_", 1000) : $_ == 1500 ? part("p$_", 1, $random) :
	$_ == 2500 ? part("p$_", 13) : $_ % 500 == 499 ? [ "p$_", '{' ] : part("p$_", 1) } 0 .. 2999 ], 'message.max.bytes' => 4_000_000);
app(q{SELECT guest_context.create_changelog('shop.parts', 'events', 'parts')});
my $letters = q{SELECT string_agg(record_offset || ' ' || sqlstate, ', ' ORDER BY id) FROM guest_context.dead_letter};
becomes($letters, '499 22P02, 700 22P02, 900 23514, 999 22P02, 1499 22P02, 1500 54000, 1999 22P02, 2499 22P02, 2999 22P02', 'each is a dead letter, in the order of offsets');
becomes(q{SELECT count(*) FROM shop.parts}, '2991', 'and the others are there');
app(q{SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter});
app(q{
	SELECT guest_context.pause('shop.parts/parts');
	SELECT guest_context.seek('shop.parts/parts', 'earliest');
	CREATE TRIGGER refuse AFTER INSERT ON shop.parts_versions FOR EACH ROW EXECUTE FUNCTION shop.refuse();
	SELECT guest_context.resume('shop.parts/parts');
});
becomes($letters, '499 22P02, 700 22P02, 900 23514, 999 22P02, 1499 22P02, 1500 54000, 1999 22P02, 2499 22P02, 2500 22023, 2999 22P02', 'the same with a trigger that refuses one more');
is(sql(q{SELECT count(*), count(DISTINCT gc_offset) FROM shop.parts_versions}), '5981|2991', 'and every other one is there again');
app(q{DROP TRIGGER refuse ON shop.parts_versions; CREATE TRIGGER refuse BEFORE INSERT ON shop.parts_versions FOR EACH ROW EXECUTE FUNCTION shop.refuse()});
app(q{
	SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter;
	SELECT guest_context.drop_changelog('shop.parts/parts');
	SELECT guest_context.create_changelog('shop.parts', 'events', 'parts', on_error => 'halt');
});
happens(q{SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.parts/parts'}, qr/^halted .*partition 0 offset 499/, 'or it halts at the first');
app(q{SELECT guest_context.skip('shop.parts/parts', 0, 499)});
happens(q{SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.parts/parts'}, qr/^halted .*partition 0 offset 700/, 'and at the next');
app(q{SELECT guest_context.drop_changelog('shop.parts/parts')});

# --- verbs that race with the worker

$kafka->create_topic('race', partitions => 3);
changelog('race');
my $producer = fork // die "fork: $!";
if (!$producer)
{
	for my $i (0 .. 19) { $kafka->kcat(join('', map { join("\t", @{ item("r$_", $i) }) . "\n" } 1 .. 500), '-P', '-t', 'race', '-K', "\t"); sleep 0.2 }
	require POSIX;
	POSIX::_exit(0);
}
for my $i (1 .. 12)
{
	app(q{SELECT guest_context.pause('shop.items/race')});
	my $at = sql(q{SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition) FROM guest_context.offsets('shop.items') WHERE changelog = 'shop.items/race'});
	sleep 0.1 * ($i % 4);
	my $after = sql(q{SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition) FROM guest_context.offsets('shop.items') WHERE changelog = 'shop.items/race'});
	is($after, $at, "round $i: nothing is committed while it is paused") if $at ne $after;
	app(q{SELECT guest_context.seek('shop.items/race', 'earliest')}) if $i % 5 == 0;
	app(q{SELECT guest_context.resume('shop.items/race')});
	sleep 0.3;
}
waitpid $producer, 0;
is($?, 0, 'all was produced');
becomes(q{SELECT sum(next_offset) FROM guest_context.offsets('shop.items') WHERE changelog = 'shop.items/race'}, '10000', 'pause, seek and resume while records come: all are read');
is(sql(q{SELECT count(DISTINCT (gc_partition, gc_offset)) FROM shop.items_speed WHERE ref ~ '^r'}), '10000', 'none is missing');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref ~ '^r'}), '500', 'and the entity has each once');
becomes(q{SELECT string_agg(DISTINCT state, ',') FROM guest_context.status}, 'running', 'running');

# --- what goes away

my $begun = time;
$node->safe_psql('postgres', q{CREATE DATABASE twin TEMPLATE postgres}, on_error_die => 0) for 1;
cmp_ok(time - $begun, '<', 5, 'a copy of the database is made');
is($node->safe_psql('twin', q{SELECT string_agg(DISTINCT state || ': ' || message, ',') FROM guest_context.status}), 'paused: paused in this copy of the database', 'its changelogs are paused');
$begun = time;
$node->safe_psql('postgres', 'DROP DATABASE twin');
cmp_ok(time - $begun, '<', 2, 'and dropped');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION guest_context; CREATE SERVER events FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '} . $kafka->bootstrap . q{');
	GRANT USAGE ON FOREIGN SERVER events TO app; GRANT CREATE ON DATABASE other TO app; SET ROLE app; CREATE SCHEMA shop;
	CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
	SELECT guest_context.create_changelog('shop.items', 'events', 'bad');});
my $until = time + 20;
sleep 0.1 while time < $until && $node->safe_psql('other', q{SELECT count(*) FROM shop.items}) ne '2';
is($node->safe_psql('other', q{SELECT count(*) FROM shop.items}), '2', 'another database reads the same topic');
$begun = time;
$node->safe_psql('postgres', 'DROP DATABASE other');
cmp_ok(time - $begun, '<', 2, 'a database with a running worker is dropped in a moment');
$begun = time;
sql('DROP EXTENSION guest_context CASCADE');
cmp_ok(time - $begun, '<', 2, 'and so is the extension');
becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'guest_context ingest%'}, '0', 'its worker goes');
sleep 6;
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'guest_context ingest%'}), '0', 'and does not come back');
$node->stop;
done_testing();
