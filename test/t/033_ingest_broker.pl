# B1, B2: a broker that is frozen, stopped, moved: told within seconds, and flowing again soon after.
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

# --- the broker: frozen, restarted

$kafka->create_topic('open');
changelog('open');
becomes(status('open'), 'running', 'running');
$kafka->freeze;
my $took = happens(status('open'), qr/^waiting (?:no news from the server since|no broker)/, 'a frozen broker: waiting');
cmp_ok($took, '<', 12, 'within seconds');
$kafka->thaw;
becomes(status('open'), 'running', 'and running when it answers');
lap('frozen');
$kafka->stop;
happens(status('open'), qr/^waiting/, 'a stopped broker: waiting');
$kafka->restart;
$kafka->produce('open', [ item('r1', 1) ]);
cmp_ok(shows('r1', 1, 'a broker that is back: flowing again'), '<', 5, 'within five seconds');
becomes(q{SELECT string_agg(DISTINCT state, ',') FROM guest_context.status}, 'running', 'all run');
is(sql(q{SELECT count(*) FROM (SELECT gc_source, gc_partition, gc_offset FROM shop.items_speed GROUP BY 1, 2, 3 HAVING count(*) > 1) d}), '0', 'every record once');
lap('restarted');
$node->stop;
done_testing();
