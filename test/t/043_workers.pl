# A4, B16: several workers read the partitions of one server for one owner: each its own, each record once, whatever
# happens to one of them and however often their number changes.
use strict;
use warnings;

use Changelogs;
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = Kafka->start;
my $node = changelogs_node($kafka, 'guest_context.workers = 2');
app(q{
	CREATE TABLE shop.gate (n int PRIMARY KEY);
	CREATE FUNCTION shop.passes(n int) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		IF EXISTS (SELECT FROM shop.gate g WHERE g.n = passes.n) THEN
			RAISE EXCEPTION USING errcode = '40001', message = format('gate %s is shut', n);
		END IF;
		RETURN true;
	END $$;
	CREATE TABLE shop.item_shape (ref text, n int CHECK (shop.passes(n)), modified_at timestamptz);
	SELECT guest_context.create_entity('shop.items', 'shop.item_shape');
});

my $stamp = 0;
sub at
{
	my ($partition, $ref, $n) = @_;
	$stamp++;
	return [ $ref, sprintf('{"ref":"%s","n":%d,"modifiedAt":"2024-03-24T12:%02d:%02dZ"}', $ref, $n // 0, $stamp / 60 % 60, $stamp % 60), undef, $partition ];
}
sub refs { my ($pattern) = @_; return "SELECT coalesce(string_agg(ref, ',' ORDER BY ref), '') FROM shop.items WHERE ref ~ '$pattern'" }
sub changelog { my ($topic, $more) = @_; app("SELECT guest_context.create_changelog('shop.items', 'events', '$topic'" . ($more ? ", $more" : '') . ')') }
sub status { my ($topic) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = 'shop.items/$topic'" }
sub worker { my ($number) = @_; return sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'guest_context ingest $number (events)'") }
sub workers { my ($n, $name) = @_; return becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, $n, $name, 60) }
sub set_workers { my ($n) = @_; sql("ALTER SYSTEM SET guest_context.workers = $n"); sql('SELECT pg_reload_conf()') }
my $once = q{SELECT count(*) FROM (SELECT FROM shop.items_speed GROUP BY gc_source, gc_partition, gc_offset HAVING count(*) > 1) d};
my $holes = q{SELECT count(*) FROM (SELECT from_offset, lag(to_offset) OVER (PARTITION BY changelog_id, generation, partition ORDER BY from_offset) AS before
	FROM guest_context._ledger) l WHERE before <> from_offset};

# --- two of them, and who reads what

$kafka->create_topic('items', partitions => 4);
$kafka->produce('items', [ map { at($_, "a$_") } 0 .. 3 ]);
changelog('items');
becomes(refs('^a'), 'a0,a1,a2,a3', 'all partitions are read');
is(sql(q{SELECT string_agg(application_name, ', ' ORDER BY application_name) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}),
	'guest_context ingest 0 (events), guest_context ingest 1 (events)', 'by two workers, which pg_stat_activity tells apart');
my $other = worker(1);
ok(kill('STOP', $other), 'one of them is stopped');
$kafka->produce('items', [ map { at($_, "b$_") } 0 .. 3 ]);
happens(refs('^b'), qr/^(?:b0,b2|b1,b3)$/, 'the other one reads its half');
my @mine = sql(refs('^b')) =~ /(\d)/g;
my @others = grep { my $p = $_; !grep { $_ == $p } @mine } 0 .. 3;
$kafka->produce('items', [ map { at($_, "b${_}more") } 0 .. 3 ]);
becomes(refs('^b'), join(',', map { ("b$_", "b${_}more") } @mine), 'and goes on, with its half alone');
kill 'CONT', $other;
becomes(q{SELECT count(*) FROM shop.items WHERE ref ~ '^b'}, '8', 'the rest comes when its worker goes on');
sql("SELECT pg_terminate_backend($other)");
$kafka->produce('items', [ map { at($_, "c$_") } @mine ]);
becomes(refs('^c'), join(',', map { "c$_" } @mine), 'a worker that is told to end leaves the other one alone');
$kafka->produce('items', [ map { at($_, "c$_") } @others ]);
becomes(refs('^c'), 'c0,c1,c2,c3', 'and comes back', 60);
is(sql($once), '0', 'every record once');

# --- the first positions are those of all partitions

$kafka->create_topic('late', partitions => 4);
$kafka->produce('late', [ map { at($_ % 4, "old$_") } 0 .. 39 ]);
changelog('late', q{start => 'latest'});
becomes(q{SELECT string_agg(partition || ':' || to_offset, ',' ORDER BY partition) FROM guest_context._position p JOIN guest_context._changelog USING (changelog_id) WHERE topic = 'late'},
	'0:10,1:10,2:10,3:10', 'latest is where each partition ends, whoever reads it');
$kafka->produce('late', [ map { at($_, "new$_") } 0 .. 3 ]);
becomes(refs('^new'), 'new0,new1,new2,new3', 'and what comes behind is read');
is(sql(q{SELECT count(*) FROM shop.items WHERE ref ~ '^old'}), '0', 'nothing before');
$kafka->add_partitions('late', 6);
$kafka->produce('late', [ map { at($_, "new$_") } 4, 5 ]);
becomes(refs('^new'), 'new0,new1,new2,new3,new4,new5', 'added partitions are read from their start');

# --- what they wait for: a wait ends when the worker whose it is says so

my $waits = q{SELECT coalesce(reason, '') FROM guest_context._changelog_state JOIN guest_context._changelog USING (changelog_id) WHERE topic = 'items'};
app(q{INSERT INTO shop.gate VALUES (1), (2)});
$kafka->produce('items', [ at($others[0], 'd1', 1) ]);
happens($waits, qr/^gate 1 is shut/, 'one worker waits');
$kafka->produce('items', [ at($mine[0], 'd0') ]);
becomes(refs('^d'), 'd0', 'the other one reads on');
happens(status('items'), qr/^waiting gate 1/, 'and does not take back what the first one says');
$kafka->produce('items', [ at($mine[0], 'd2', 2) ]);
$node->wait_for_log(qr/changelog "shop.items\/items" waits: gate 2 is shut/);
happens(status('items'), qr/^waiting gate 1/, 'the second one to wait does not write over it');
app(q{DELETE FROM shop.gate WHERE n = 1});
happens(status('items'), qr/^waiting gate 2/, 'when the first one goes on, the reason of the second is told');
app(q{DELETE FROM shop.gate});
becomes(status('items'), 'running', 'when both do, it runs');
becomes(refs('^d'), 'd0,d1,d2', 'all is read');

# --- a halt is for all

app(q{SELECT guest_context.alter_changelog('shop.items/items', on_error => 'halt')});
my ($bad) = $kafka->produce('items', [ [ 'bad', 'no json', undef, $mine[0] ] ]);
happens(status('items'), qr/^halted .*partition $bad->[0] offset $bad->[1]/s, 'one worker halts the changelog');
$kafka->produce('items', [ at($others[0], 'e1'), at($mine[0], 'e0') ]);
$kafka->produce('late', [ at($_, "elate$_") ]) for 0 .. 3;
becomes(refs('^elate'), 'elate0,elate1,elate2,elate3', 'other changelogs are read on');
is(sql(refs('^e\d')), '', 'this one is read by no worker');
app("SELECT guest_context.skip('shop.items/items', $bad->[0], $bad->[1], 'rubbish')");
becomes(refs('^e\d'), 'e0,e1', 'and by both after a skip');

# --- another number, while records come

my $records = 60_000;
$kafka->create_topic('load', partitions => 6);
changelog('load');
my $producer = fork // die "fork: $!";
if (!$producer)
{
	my $piece = 5_000;
	for my $from (map { $_ * $piece } 0 .. $records / $piece - 1)
	{
		my $text = join '', map { sprintf qq(k%d\t{"ref":"k%d","n":%d,"modifiedAt":"2024-03-24T12:20:01Z"}\n), $_, $_, $_ } $from + 10 .. $from + $piece + 9;
		$kafka->kcat($text, '-P', '-t', 'load', '-K', "\t", '-X', 'enable.idempotence=true');
		sleep 1;
	}
	require POSIX;
	POSIX::_exit(0);
}
my $loaded = q{SELECT count(*) FROM shop.items_speed WHERE ref ~ '^k'};
for my $n (1, 3, 2)
{
	set_workers($n);
	workers($n, "$n workers");
	my $before = sql($loaded);
	happens("SELECT count(*) > $before OR count(*) = $records FROM shop.items_speed WHERE ref ~ '^k'", qr/t/, 'records come', 60);
}
app(q{SET statement_timeout = '30 s'; SELECT guest_context.pause('shop.items/load')});
my $stopped = sql($loaded);
$kafka->produce('items', [ map { at($_, "f$_") } 0 .. 3 ]);
becomes(refs('^f'), 'f0,f1,f2,f3', 'another changelog is read by both while it is paused');
is(sql($loaded), $stopped, 'no worker commits a batch after a pause');
app(q{SELECT guest_context.resume('shop.items/load')});
waitpid $producer, 0;
is($?, 0, 'all was produced');
becomes($loaded, $records, 'each record is there', 120);
is(sql(q{SELECT count(DISTINCT ref) FROM shop.items_speed WHERE ref ~ '^k'}), $records, 'and no other one');
becomes(q{SELECT string_agg(state || lag, ',') FROM guest_context.status}, 'running0,running0,running0', 'nothing is behind');
is(sql($once), '0', 'every record once');
is(sql($holes), '0', 'no hole and no overlap in the ledger');

# --- one that still reads what is not its own any more

set_workers(1);
workers(1, 'one worker');
$kafka->produce('items', [ map { at($_, "g$_") } 0 .. 3 ]);
becomes(refs('^g'), 'g0,g1,g2,g3', 'reads all');
my $old = worker(0);
ok(kill('STOP', $old), 'and is stopped');
set_workers(2);
app(q{SELECT count(*) FROM guest_context.run_maintenance()});
workers(2, 'maintenance starts the second one');
$kafka->produce('items', [ map { at($_, "h$_") } 0 .. 3 ]);
becomes(refs('^h'), join(',', map { "h$_" } @others), 'which reads its partitions from where the ledger is');
kill 'CONT', $old;
becomes(refs('^h'), 'h0,h1,h2,h3', 'the first one goes on, with all records at hand');
becomes(q{SELECT string_agg(state || lag, ',') FROM guest_context.status}, 'running0,running0,running0', 'nothing is behind');
is(sql($once), '0', 'and only one of the two has committed each');
is(sql($holes), '0', 'no hole and no overlap in the ledger');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter}), '0', 'no dead letter');
$node->stop;
done_testing();
