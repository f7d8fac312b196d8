# B3, B4, B5, B12, B13: what can happen to a topic: each is told by the status, nothing is passed over silently, and the
# verb that the hint names goes on.
use strict;
use warnings;

use Changelogs qw(:DEFAULT :items);
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $node = changelogs_node($kafka);
items_entity();
my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

# --- a topic that is not there yet, and partitions that are added

changelog('later');
happens(status('later'), qr/^waiting .*(?:does not exist|[Uu]nknown topic)/, 'a topic that is not there is waited for');
$kafka->create_topic('later', partitions => 2);
$kafka->produce('later', [ at(0, 'l0', 1), at(1, 'l1', 1) ]);
shows('l1', 1, 'and read when it comes', 20);
becomes(status('later'), 'running', 'running');
$kafka->add_partitions('later', 4);
$kafka->produce('later', [ at(3, 'l3', 1) ]);
cmp_ok(shows('l3', 1, 'an added partition is read from its start'), '<', 15, 'within 15 seconds');
lap('partitions');

# --- lost offsets

$kafka->create_topic('loss', partitions => 2);
$kafka->produce('loss', [ map { (at(0, "a$_", 1), at(1, "b$_", 1)) } 0 .. 9 ]);
changelog('loss');
becomes(q{SELECT count(*) FROM shop.items WHERE ref ~ '^[ab]'}, '20', 'a topic of two partitions');
app(q{SELECT guest_context.pause('shop.items/loss')});
$kafka->produce('loss', [ map { (at(0, "a$_", 2), at(1, "b$_", 2)) } 0 .. 9 ]);
$kafka->delete_records('loss', 0, 15);
$kafka->delete_records('loss', 1, 12);
app(q{SELECT guest_context.resume('shop.items/loss')});
happens(status('loss'), qr/^halted data loss: offsets 10 to 14 of partition 0 are gone.*\nSELECT guest_context.accept_data_loss\('shop.items\/loss', 0, 'reason'\);\z/, 'offsets that were trimmed while it was paused: halted, with the range and the call');
like(app_fails(q{SELECT guest_context.accept_topic('shop.items/loss')}), qr/has not halted because of a replaced topic/, 'which is not accept_topic');
like(app_fails(q{SELECT guest_context.accept_data_loss('shop.items/loss', 7)}), qr/has lost nothing of partition 7/, 'nor another partition');
app(q{SELECT guest_context.accept_data_loss('shop.items/loss', 0, 'retention was too short')});
happens(status('loss'), qr/^halted data loss: offsets 10 to 11 of partition 1 are gone/, 'the other partition is still to be accepted');
app(q{SELECT guest_context.accept_data_loss('shop.items/loss', 1)});
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.items WHERE n = 2}, 'a5,a6,a7,a8,a9,b2,b3,b4,b5,b6,b7,b8,b9', 'what is left is read');
is(sql(q{SELECT string_agg(partition || ':' || from_offset || '-' || to_offset || ' ' || coalesce(reason, ''), ', ' ORDER BY partition) FROM guest_context._gap}),
	'0:10-15 retention was too short, 1:10-12 ', 'the gaps are recorded');
is(sql(q{SELECT string_agg(concat_ws(' ', role, reason, detail->>'from', detail->>'through'), ', ' ORDER BY audit_id) FROM guest_context.audit WHERE verb = 'accept_data_loss'}),
	'app retention was too short 10 14, app 10 11', 'and in the audit');
lap('loss');

# --- skip

like(app_fails(q{SELECT guest_context.skip('shop.items/loss', 0, 30)}), qr/while it runs/, 'no skip while it runs');
app(q{SELECT guest_context.alter_changelog('shop.items/loss', on_error => 'halt')});
$kafka->produce('loss', [ at(0, 's1', 1), [ 'bad', 'no json', undef, 0 ], at(0, 's2', 1) ]);
happens(status('loss'), qr/^halted .*partition 0 offset 21.*\nSELECT guest_context.skip\('shop.items\/loss', 0, 21, 'reason'\);\nor mend it, then SELECT guest_context.resume\('shop.items\/loss'\);/, 'on_error => halt halts at the record');
shows('s1', 1, 'what came before it is there');
like(app_fails(q{SELECT guest_context.skip('shop.items/loss', 0, 20)}), qr/next offset to be read is 21/, 'no skip of what has been read');
app(q{SELECT guest_context.skip('shop.items/loss', 0, 21, 'rubbish')});
shows('s2', 1, 'and goes on behind what is skipped');
is(sql(q{SELECT reason || from_offset || to_offset FROM guest_context._gap WHERE from_offset = 21}), 'rubbish2122', 'with a gap');
lap('skip');

# --- the topic is replaced: shorter, longer, with fewer partitions; while it is stopped and while it runs

for my $case ([ 'shorter', 2, 1 ], [ 'longer', 20, 1 ], [ 'longer', 20, 0 ])
{
	my ($how, $records, $paused) = @$case;
	my $topic = "new-$how-" . ($paused ? 'paused' : 'running');
	my $old = "old$how$paused";
	$kafka->create_topic($topic);
	$kafka->produce($topic, [ map { at(0, $old, $_) } 1 .. 5 ]);
	changelog($topic);
	shows($old, 5, "$topic: read");
	app("SELECT guest_context.pause('shop.items/$topic')") if $paused;
	$kafka->delete_topic($topic);
	$kafka->create_topic($topic);
	$kafka->produce($topic, [ map { at(0, "new$how$paused", $_) } 1 .. $records ]);
	app("SELECT guest_context.resume('shop.items/$topic')") if $paused;
	happens(status($topic), qr/^halted topic replaced: .*\nSELECT guest_context.accept_topic/, "$topic: halted");
	app("SELECT guest_context.accept_topic('shop.items/$topic', 'moved')");
	shows("new$how$paused", $records, "$topic: read from its start");
	shows($old, 5, "$topic: what was read of the old one stays");
	is(sql("SELECT generation FROM guest_context.changelog WHERE topic = '$topic'"), '2', "$topic: a new generation");
	becomes("SELECT count(DISTINCT gc_source) FROM shop.items_speed WHERE ref ~ '$how$paused'", '2', "$topic: of another source");
	lap($topic);
}
changelog('nowhere');
happens(status('nowhere'), qr/^waiting topic "nowhere": .*Unknown topic.*\nSELECT \* FROM guest_context.topics\('events'\);\z/, 'a topic that is not there: waiting, with its name and where to look');
app(q{SELECT guest_context.drop_changelog('shop.items/nowhere')});
$kafka->create_topic('fewer', partitions => 3);
$kafka->produce('fewer', [ at(2, 'f2', 1) ]);
changelog('fewer');
shows('f2', 1, 'a topic of three partitions');
$kafka->delete_topic('fewer');
$kafka->create_topic('fewer', partitions => 1);
happens(status('fewer'), qr/^halted topic replaced: it has 1 partitions and had 3\nSELECT guest_context.accept_topic/, 'fewer partitions: halted');
app(q{SELECT guest_context.accept_topic('shop.items/fewer')});
$kafka->produce('fewer', [ at(0, 'f0', 1) ]);
shows('f0', 1, 'and accepted');
lap('replaced');

is(sql(q{SELECT count(*) FROM (SELECT c.topic, s.gc_source, s.gc_partition, s.gc_offset, s.ref FROM shop.items_speed s JOIN guest_context._source c ON c.source = s.gc_source GROUP BY 1, 2, 3, 4, 5 HAVING count(*) > 1) d}), '0', 'every record once');
$node->stop;
done_testing();
