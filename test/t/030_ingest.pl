# A1, A2, A3, A4, A6 (transient), B15, C1, C9, C10, C14, E8, E9: change records from journal files into
# entities: each exactly once, through bad records, pauses, seeks and the death of every process.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'guest_context'\nrestart_after_crash = on\nmax_worker_processes = 16\nautovacuum = off\n");
$node->start;
my $journal = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $journal;
mkdir "$journal/$_" or die "$journal/$_: $!" for qw(guests orders);

# Lines at the end of a partition's file; the topic is one of the journal's, or a path.
sub append
{
	my ($topic, $partition, @lines) = @_;
	$topic = "$journal/$topic" unless $topic =~ m{^/};
	open(my $f, '>>', "$topic/$partition.jsonl") or die "$topic: $!";
	print $f map { "$_\n" } @lines;
	close($f) or die "$topic: $!";
	return;
}

sub app { my ($sql) = @_; return $node->safe_psql('postgres', "SET ROLE app; $sql") }

# Waits until a query gives this; the last answer where it never does.
sub becomes
{
	my ($query, $expected, $name, $seconds) = @_;
	my $until = time + ($seconds // 30);
	my $got;
	do { $got = eval { $node->safe_psql('postgres', $query) } // "error: $@" } until $got eq $expected || time > $until || !sleep 0.05;
	is($got, $expected, $name);
	return;
}

$node->safe_psql('postgres', qq{
	CREATE EXTENSION guest_context;
	CREATE ROLE app LOGIN;
	GRANT CREATE ON DATABASE postgres TO app;
	CREATE SERVER journal TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$journal');
	GRANT USAGE ON FOREIGN SERVER journal TO app;
});
app(q{
	CREATE SCHEMA shop;
	CREATE TYPE shop.guest_shape AS (ref text, first_name text, modified_at timestamptz);
	CREATE TYPE shop.order_shape AS (ref text, guest_ref text, status text, total numeric, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.guests', 'shop.guest_shape');
	SELECT guest_context.create_entity('shop.orders', 'shop.order_shape', parent => 'shop.guests', parent_ref => '{guest_ref}');
});

# --- the start: what is there, and what comes

append('guests', 0, '{"key":"g1","value":{"ref":"g1","firstName":"John","modifiedAt":"2024-03-24T12:18:19Z"}}');
append('orders', 0,
	'{"key":"o1","value":{"ref":"o1","guestRef":"g1","status":"CANCELLED","total":80,"modifiedAt":"2024-03-26T16:42:00Z"}}',
	'{"key":"o1","value":{"ref":"o1","guestRef":"g1","status":"PURCHASED","total":80,"modifiedAt":"2024-03-24T12:20:01Z"}}');
append('orders', 1, '{"key":"o2","value":{"ref":"o2","guestRef":"g1","status":"PURCHASED","total":25,"modifiedAt":"2024-03-10T22:20:15Z"}}');
is(app(q{SELECT guest_context.create_changelog('shop.guests', 'journal', 'guests')}), 'shop.guests/guests', 'a changelog has a name');
app(q{SELECT guest_context.create_changelog('shop.orders', 'journal', 'orders')});
becomes(q{SELECT string_agg(g.first_name || o.ref || o.status, ',' ORDER BY o.ref) FROM shop.guests g JOIN shop.orders o ON o.guest_ref = g.ref},
	'Johno1CANCELLED,Johno2PURCHASED', 'what is in the topics is to be seen, the newest version of each');
append('orders', 1, '{"key":"o2","value":{"ref":"o2","guestRef":"g1","status":"RETURNED","total":25,"modifiedAt":"2024-04-01T00:00:00Z"}}');
becomes(q{SELECT status FROM shop.orders WHERE ref = 'o2'}, 'RETURNED', 'and so is what comes');
my $began = time;
append('orders', 1, '{"key":"o2","value":null,"ts":1711975000000}');
becomes(q{SELECT count(*) FROM shop.orders WHERE ref = 'o2'}, '0', 'a null value is a delete, with the time of the record');
cmp_ok(time - $began, '<', 5, 'within moments');
becomes(q{SELECT string_agg(state, ',' ORDER BY changelog) FROM guest_context.status}, 'running,running', 'status: running');
like(app(q{SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition) FROM guest_context.offsets('shop.orders')}), qr/^0:\d+,1:\d+$/, 'offsets by partition');
is(app(qq{SELECT guest_context.wait_for('shop.orders', 'orders', 0, 0)}), 't', 'wait_for what is there');
is(app(qq{SELECT guest_context.wait_for('shop.orders', 'orders', 0, 1000000, '100 ms')}), 'f', 'wait_for what is not');

# --- another server of the same owner has a worker of its own

my $second = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $second;
mkdir "$second/guests" or die "$second/guests: $!";
append("$second/guests", 0, '{"key":"s1","value":{"ref":"s1","firstName":"Sue","modifiedAt":"2024-03-24T12:18:19Z"}}');
$node->safe_psql('postgres', qq{
	CREATE SERVER second TYPE 'file' FOREIGN DATA WRAPPER guest_context OPTIONS (directory '$second');
	GRANT USAGE ON FOREIGN SERVER second TO app;
});
app(q{SELECT guest_context.create_changelog('shop.guests', 'second', 'guests', name => 'second')});
becomes(q{SELECT first_name FROM shop.guests WHERE ref = 's1'}, 'Sue', 'a second server of the same owner is read');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}), '2', 'by a worker of its own');
append("$second/guests", 0, '{"key":"s1","value":null,"ts":1711975000000}');
becomes(q{SELECT count(*) FROM shop.guests WHERE ref = 's1'}, '0', 'and so is what comes from there');
app(q{SELECT guest_context.drop_changelog('second')});
becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, '1', 'which ends when it has nothing to read');

# --- bad records

append('orders', 0,
	'{"key":"o3","value":{"ref":"o3","guestRef":"g1","status":"GOOD","total":1,"modifiedAt":"2024-04-02T00:00:00Z"}}',
	'{"key":"o4","value":{"ref":"o4","guestRef":"g1","status":"BAD","total":"much","modifiedAt":"2024-04-02T00:00:00Z"}}',
	'{"key":"o5","value":{"ref":"o5","guestRef":"g1","status":"BAD","total":1}}',
	'{"key":"o7","value":{"ref":"o7","guestRef":"g1","status":"BAD","total":1,"modifiedAt":"2924-04-02T00:00:00Z"}}',
	'{"key":"o6","value":{"ref":"o6","guestRef":"g1","status":"GOOD","total":1,"modifiedAt":"2024-04-02T00:00:00Z"}}');
becomes(q{SELECT string_agg(ref, ',' ORDER BY ref) FROM shop.orders WHERE status = 'GOOD'}, 'o3,o6', 'neighbours of bad records land');
is($node->safe_psql('postgres', q{SELECT string_agg(convert_from(key, 'UTF8') || ' ' || sqlstate, ', ' ORDER BY record_offset) FROM guest_context.dead_letter}),
	'o4 22P02, o5 23502, o7 22008', 'and those are dead letters, whole and with the reason');
is($node->safe_psql('postgres', q{SET ROLE pg_monitor; SELECT count(*) FROM guest_context.dead_letter}), '0', 'which are not for everybody');
my ($ret, $out, $err) = $node->psql('postgres', q{SET ROLE app; SELECT guest_context.requeue(array_agg(id)) FROM guest_context.dead_letter WHERE convert_from(key, 'UTF8') = 'o4'});
isnt($ret, 0, 'requeue of what is still bad fails');
($ret, $out, $err) = $node->psql('postgres', q{SET ROLE app; SELECT guest_context.requeue(array_agg(id)) FROM guest_context.dead_letter WHERE sqlstate = '23502'});
like($err, qr/HINT:  Change the mapping by alter_changelog, or leave \d+ out of the ids\.\nCONTEXT:  applying dead letter \d+ of changelog "shop.orders\/orders", partition/, 'and says of which, and what to do');
app(q{SELECT guest_context.alter_changelog('shop.orders/orders', mapping => '{"total": null}')});
is(app(q{SELECT guest_context.requeue(array_agg(id)) FROM guest_context.dead_letter WHERE convert_from(key, 'UTF8') = 'o4'}), '1', 'and succeeds when the mapping takes it');
is(app(q{SELECT status FROM shop.orders WHERE ref = 'o4'}), 'BAD', 'it is there');
app(q{SELECT guest_context.alter_changelog('shop.orders/orders', reset => '{mapping}')});
is(app(q{SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter}), '2', 'the others are discarded');
is($node->safe_psql('postgres', q{SELECT count(*) FROM guest_context.audit WHERE verb = 'discard'}), '2', 'which the audit says');
is(app(q{SELECT guest_context.discard(array_agg(id)), guest_context.requeue(array_agg(id)) FROM guest_context.dead_letter}), '0|0', 'of none none');

# many, one in a hundred bad
append('orders', 0, map { my $t = $_ % 100 == 50 ? '"x"' : $_; qq({"key":"m$_","value":{"ref":"m$_","guestRef":"g1","status":"MANY","total":$t,"modifiedAt":"2024-05-01T00:00:00Z"}}) } 1 .. 5000);
becomes(q{SELECT count(*) FROM shop.orders WHERE status = 'MANY'}, '4950', 'of 5,000 records 4,950 land', 60);
is($node->safe_psql('postgres', q{SELECT count(*) FROM guest_context.dead_letter}), '50', 'and 50 are dead letters');
app(q{SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter});

# --- pause, resume, seek

app(q{SELECT guest_context.pause('shop.orders/orders')});
becomes(q{SELECT state FROM guest_context.status WHERE changelog = 'shop.orders/orders'}, 'paused', 'paused');
append('orders', 1, '{"key":"p1","value":{"ref":"p1","guestRef":"g1","status":"PAUSED","total":1,"modifiedAt":"2024-05-01T00:00:00Z"}}');
append('guests', 0, '{"key":"g2","value":{"ref":"g2","firstName":"Mary","modifiedAt":"2024-03-24T12:18:19Z"}}');
becomes(q{SELECT count(*) FROM shop.guests}, '2', 'the others run on');
is(app(q{SELECT count(*) FROM shop.orders WHERE ref = 'p1'}), '0', 'it has stopped');
is(app(q{SELECT lag IS NULL AND behind IS NULL FROM guest_context.status WHERE changelog = 'shop.orders/orders'}), 't', 'and does not say that nothing is left');
($ret, $out, $err) = $node->psql('postgres', q{SET ROLE app; SELECT guest_context.wait_for('shop.orders', 'orders', 1, 1000000)});
like($err, qr/has stopped/, 'wait_for says so');
my $before = app(q{SELECT md5(string_agg(o::text, ',' ORDER BY ref)) FROM shop.orders o});
like(app(q{SELECT guest_context.seek('shop.orders/orders', 'earliest')}), qr/^0:\d+,1:\d+$/, 'seek returns the old offsets');
is(app(q{SELECT guest_context.seek('shop.orders/orders', '1:7,0:9')}), 'earliest', 'or where it was to begin, when it has not been read from there');
is(app(q{SET timezone = 'Asia/Tokyo'; SELECT guest_context.seek('shop.orders/orders', timestamptz '2024-03-01 09:00:00.25'::text)}), '1:7,0:9', 'offsets too');
is(app(q{SELECT guest_context.seek('shop.orders/orders', 'earliest')}), '2024-03-01 09:00:00.25+09', 'and a time');
is(app(q{SELECT string_agg((detail->>'from') || '>' || (detail->>'to'), ' ' ORDER BY audit_id) FROM guest_context.audit WHERE verb = 'seek'}) =~ s/^0:\d+,1:\d+>//r,
	'earliest earliest>1:7,0:9 1:7,0:9>2024-03-01 09:00:00.25+09 2024-03-01 09:00:00.25+09>earliest', 'the audit has where from and where to');
for ([ '2024-03-01 09:00:00', 'it has no zone' ], [ 'now', '.*' ], [ 'newest', '.*' ])
{
	($ret, $out, $err) = $node->psql('postgres', "SET ROLE app; SELECT guest_context.seek('shop.orders/orders', '$_->[0]')");
	like($err, qr/"\Q$_->[0]\E" is no position in a topic\nDETAIL:  It is not a time: $_->[1].*\nHINT:  It is earliest, latest, a time with a zone, or offsets by partition/, "$_->[0] is no target");
}
app(q{SELECT guest_context.resume('shop.orders/orders')});
becomes(q{SELECT count(*) FROM shop.orders WHERE ref = 'p1'}, '1', 'resumed');
becomes(q{SELECT lag FROM guest_context.status WHERE changelog = 'shop.orders/orders'}, '0', 'all is read again');
is(app(q{SELECT md5(string_agg(o::text, ',' ORDER BY ref)) FROM shop.orders o WHERE ref <> 'p1'}), $before, 'and changed nothing');
($ret, $out, $err) = $node->psql('postgres', q{SET ROLE app; SELECT guest_context.seek('shop.orders/orders', 'earliest')});
like($err, qr/while it is not paused/, 'no seek while it runs');

# --- the death of every process, while records come

my $refs = 0;
my $more = sub {
	append('orders', $_ % 2, map { $refs++; qq({"key":"k$refs","value":{"ref":"k$refs","guestRef":"g1","status":"KILL","total":$refs,"modifiedAt":"2024-06-01T00:00:00Z"}}) } 1 .. 500) for 1 .. 4;
};
my $pid_of = sub { $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}) };
for my $what ('SIGTERM to the worker', 'the reader killed', 'the worker killed', 'an immediate stop')
{
	becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, '1', "before $what a worker runs");
	my $pid = $pid_of->();
	$more->();
	sleep 0.02;
	if ($what =~ /^SIGTERM/) { $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") }
	elsif ($what =~ /reader/)
	{
		my ($reader) = grep { /^\d+$/ } split /\n/, qx(pgrep -P $pid -f guest_context_reader);
		ok($reader && kill('KILL', $reader), 'there is a reader to be killed');
	}
	elsif ($what =~ /immediate/) { $node->stop('immediate'); $node->start }
	else { kill 'KILL', $pid; sleep 0.5; $node->poll_query_until('postgres', undef, '') }
	$more->();
	becomes(q{SELECT count(*) FROM shop.orders WHERE status = 'KILL'}, "$refs", "after $what every record is there", 60);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT gc_source, gc_partition, gc_offset FROM shop.orders_speed WHERE status = 'KILL' GROUP BY 1, 2, 3 HAVING count(*) > 1) d}), '0', 'once');
}
# no reader outlives its worker
sleep 1.5;
is(scalar(grep { /\d/ } split /\n/, qx(pgrep -f '^[^ ]*guest_context_reader' -P 1)), 0, 'no orphaned reader');

# --- a halted changelog does not stop the others

app(q{ALTER TABLE shop.orders_versions RENAME COLUMN status TO state});
append('orders', 0, '{"key":"z1","value":{"ref":"z1","guestRef":"g1","status":"Z","total":1,"modifiedAt":"2024-05-01T00:00:00Z"}}');
becomes(q{SELECT state FROM guest_context.status WHERE changelog = 'shop.orders/orders'}, 'halted', 'a lost column halts the changelog');
append('guests', 0, '{"key":"g3","value":{"ref":"g3","firstName":"Eve","modifiedAt":"2024-03-24T12:18:19Z"}}');
becomes(q{SELECT count(*) FROM shop.guests}, '3', 'alone');
app(q{ALTER TABLE shop.orders_versions RENAME COLUMN state TO status});
app(q{SELECT guest_context.resume('shop.orders/orders')});
becomes(q{SELECT count(*) FROM shop.orders WHERE ref = 'z1'}, '1', 'and it goes on when the column is back');

# a lock is waited for
my $locker = $node->background_psql('postgres');
$locker->query_safe(q{BEGIN; LOCK TABLE shop.orders_speed IN ACCESS EXCLUSIVE MODE;});
append('orders', 0, '{"key":"l1","value":{"ref":"l1","guestRef":"g1","status":"L","total":1,"modifiedAt":"2024-05-01T00:00:00Z"}}');
becomes(q{SELECT state FROM guest_context.status WHERE changelog = 'shop.orders/orders'}, 'waiting', 'a lock in the way: waiting', 30);
$locker->query_safe('ROLLBACK');
$locker->quit;
becomes(q{SELECT count(*) FROM shop.orders WHERE ref = 'l1'}, '1', 'and it goes on without it');
becomes(q{SELECT state FROM guest_context.status WHERE changelog = 'shop.orders/orders'}, 'running', 'running again');
is($node->safe_psql('postgres', q{SELECT count(*) FROM guest_context.dead_letter WHERE convert_from(key, 'UTF8') IN ('l1', 'z1')}), '0', 'no dead letter of it');

# --- the end

app(q{SELECT guest_context.drop_changelog('shop.guests/guests')});
is(app(q{SELECT count(*) FROM shop.guests}), '3', 'records outlive their changelog');
app(q{SELECT guest_context.drop_entity('shop.orders')});
becomes(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'}, '0', 'without changelogs no worker');
is($node->safe_psql('postgres', q{SELECT count(*) FROM guest_context.status}), '0', 'and no status');
$node->stop;
done_testing();
