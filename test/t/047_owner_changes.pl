# E3, X15: what an owner does to an entity's tables and with functions of his own while changelogs feed it. What runs for him has his
# rights and no others, good records are stored, one entity's trouble is not another's, and no table of his crashes a session.
use strict;
use warnings;

use Changelogs;
use PostgreSQL::Test::Utils;
use Test::More;

my $journal = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $journal;
my $node = changelogs_node($journal);
my $stamp = 0;

sub append
{
	my ($topic, %n) = @_;
	mkdir "$journal/$topic";
	open(my $f, '>>', "$journal/$topic/0.jsonl") or die "$topic: $!";
	printf $f qq({"key":"%s","value":{"ref":"%s","n":%s,"modifiedAt":"2024-03-24T12:%02d:01Z"}}\n), $_, $_, $n{$_}, $stamp++ for sort keys %n;
	close($f) or die "$topic: $!";
	return;
}
sub status { my ($name) = @_; return "SELECT concat_ws(' ', state, message) FROM guest_context.status WHERE changelog = '$name'" }
sub entity
{
	my ($name) = @_;
	return app(qq{
		SELECT guest_context.create_entity('shop.$name', 'shop.item_shape');
		SELECT guest_context.create_changelog('shop.$name', 'events', '$name', name => '$name')});
}

append($_, first => 1) for qw(a b c);
app(q{CREATE TYPE shop.item_shape AS (ref text, n int, modified_at timestamptz)});
entity($_) for qw(a b c);
becomes("SELECT string_agg(n::text, '') FROM (SELECT n FROM shop.$_) x", '1', "$_ is fed") for qw(a b c);

# --- whose rights: an operator of the owner's, first in a search path that a trigger of his sets

app(q{
	CREATE SCHEMA evil;
	CREATE FUNCTION evil.look() RETURNS void LANGUAGE plpgsql AS $$BEGIN
		IF CURRENT_USER <> 'app' THEN RAISE LOG 'a function of the owner runs as %', CURRENT_USER; END IF; END$$;
	CREATE FUNCTION evil.eq(oid, oid) RETURNS bool LANGUAGE plpgsql AS $$BEGIN PERFORM evil.look(); RETURN pg_catalog.oideq($1, $2); END$$;
	CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.eq);
	CREATE FUNCTION evil.eq(text, text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN PERFORM evil.look(); RETURN pg_catalog.texteq($1, $2); END$$;
	CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
	CREATE FUNCTION evil.eq(bool, bool) RETURNS bool LANGUAGE plpgsql AS $$BEGIN PERFORM evil.look(); RETURN pg_catalog.booleq($1, $2); END$$;
	CREATE OPERATOR evil.= (LEFTARG = bool, RIGHTARG = bool, FUNCTION = evil.eq);
	CREATE FUNCTION evil.set() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		PERFORM pg_catalog.set_config('search_path', 'evil, pg_catalog', false);
		PERFORM pg_catalog.set_config('default_transaction_read_only', 'on', false);
		PERFORM pg_catalog.set_config('timezone', 'Asia/Tokyo', false);
		RETURN NULL; END$$;
	CREATE TRIGGER evil AFTER INSERT ON shop.a_versions FOR EACH ROW EXECUTE FUNCTION evil.set();
	CREATE CONSTRAINT TRIGGER evil_later AFTER INSERT ON shop.b_versions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil.set()});
append('a', second => 2);
becomes(q{SELECT string_agg(n::text, '' ORDER BY n) FROM shop.a}, '12', 'E3: what a trigger sets does not stop the worker');
append('a', third => 3, wrong => '"x"');
app(q{SELECT guest_context.pause('a'); SELECT guest_context.resume('a')});
becomes(q{SELECT string_agg(n::text, '' ORDER BY n) FROM shop.a}, '123', 'E3: nor the next batches');
becomes(q{SELECT count(*) FROM guest_context.dead_letter WHERE changelog = 'a'}, '1', 'E3: nor dead letters');
append('b', second => 2);
happens(status('b'), qr/^halted cannot fire deferred trigger within security-restricted operation/, 'E3: nothing of his runs at the commit, where no rights are taken away');
is(sql(q{SET ROLE app; SET search_path = evil, pg_catalog; SELECT guest_context.wait_for_head('shop.a'); SELECT * FROM guest_context.offsets('shop.a')}) =~ /^t\na\|a\|0\|/ ? 'ok' : '', 'ok',
	'a session with such a path is answered');
is(sql(q{SELECT guest_context.apply('shop.a', '{"ref": "fourth", "n": 4, "modifiedAt": "2024-03-24T12:00:00Z"}');
	SELECT current_setting('search_path') || ' ' || current_setting('default_transaction_read_only')}), qq("1\n"\$user", public off) =~ s/^"//r,
	'E3: what a trigger sets for a superuser who applies is gone behind it');
unlike(slurp_file($node->logfile), qr/LOG:  a function of the owner runs as/, 'E3, X15: and nothing of the owner ever ran with the rights of somebody else');
app(q{DROP TRIGGER evil ON shop.a_versions; DROP TRIGGER evil_later ON shop.b_versions; SELECT guest_context.resume('b')});
becomes(q{SELECT string_agg(n::text, '' ORDER BY n) FROM shop.b}, '12', 'E3: without that trigger it goes on');

# --- columns that the owner adds

app(q{
	ALTER TABLE shop.c_versions ADD COLUMN extra int NOT NULL DEFAULT 7;
	ALTER TABLE shop.c_versions ADD COLUMN twice int GENERATED ALWAYS AS (n * 2) STORED});
append('c', second => 2);
becomes(q{SELECT concat_ws(' ', extra, twice) FROM shop.c_versions WHERE ref = 'second'}, '7 4', 'E3: a column that was added gets its default, and what is generated');
is(sql(q{SELECT count(*) FROM guest_context.dead_letter WHERE changelog = 'c'}), '0', 'E3: no record is a dead letter because of that');

# --- a trigger that does not come to an end

append('d', first => 1);
entity('d');
becomes(status('d'), 'running', 'a changelog runs');
app(q{CREATE FUNCTION shop.hang() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_catalog.pg_sleep(1000); RETURN NULL; END$$;
	CREATE TRIGGER hang AFTER INSERT ON shop.d_versions FOR EACH ROW EXECUTE FUNCTION shop.hang()});
append('d', second => 2);
happens(status('d'), qr/^waiting no sign of life from its worker since [^\n]+\nSELECT \* FROM pg_stat_activity WHERE pid = \d+;\z/, 'a trigger hangs: waiting, and where to look', 60);
like(app(status('c')), qr/^waiting no sign of life from its worker/, 'so do the others that this worker reads, whoever asks');
app(q{CREATE OR REPLACE FUNCTION shop.hang() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$});
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'guest_context ingest'});
becomes(q{SELECT string_agg(n::text, '' ORDER BY n) FROM shop.d}, '12', 'with another trigger it goes on');
becomes(status('d'), 'running', 'and runs');
app(q{SELECT guest_context.drop_changelog('d')});

# --- columns that are not there any more, or cannot be written

my @changes = (
	[ 'n renamed', q{ALTER TABLE shop.c_versions DROP COLUMN twice; ALTER TABLE shop.c_versions RENAME COLUMN n TO m}, q{ALTER TABLE shop.c_versions RENAME COLUMN m TO n},
		qr/^halted entity "shop\.c" has lost its column "n"/, undef ],
	[ 'key renamed', q{ALTER TABLE shop.c_versions RENAME COLUMN ref TO reference}, q{ALTER TABLE shop.c_versions RENAME COLUMN reference TO ref},
		qr/^halted entity "shop\.c" has lost its column "ref"/, undef ],
	[ 'offset renamed', q{ALTER TABLE shop.c_versions RENAME COLUMN gc_offset TO place}, q{ALTER TABLE shop.c_versions RENAME COLUMN place TO gc_offset},
		qr/^halted table "c_versions" has lost its column "gc_offset"/, qr/ERROR:  table "c_versions" has lost its column "gc_offset"/m ],
);
my $n = 2;
for my $change (@changes)
{
	my ($name, $break, $mend, $state, $select) = @$change;
	$n++;
	app($break);
	append('c', "n$n" => $n);
	append('a', "n$n" => $n);
	happens(status('c'), $state, "E3: $name: it halts, and says why");
	becomes("SELECT n FROM shop.a WHERE ref = 'n$n'", $n, "E3: $name: the others go on");
	my ($rc, $out, $err) = $node->psql('postgres', q{SELECT * FROM shop.c});
	like($err, $select // qr/^$/, "E3: $name: a query of the view says so too, and crashes nobody");
	($rc, $out, $err) = $node->psql('postgres', q{SELECT guest_context.apply('shop.c', '{"ref": "q", "n": 1, "modifiedAt": "2024-03-24T12:00:00Z"}')});
	like($err, qr/has lost its column/, "E3: $name: so does apply");
	app($mend);
	app(q{SELECT guest_context.resume('c')});
	becomes("SELECT n FROM shop.c WHERE ref = 'n$n'", $n, "E3: $name: mended and resumed it goes on where it was");
}
is(sql(q{SELECT count(*) FROM guest_context.dead_letter WHERE changelog = 'c'}), '0', 'E3: no record is a dead letter because of all that');

# --- a publication of all tables, ours among them: what deletes from a table needs its replica identity

sql('CREATE PUBLICATION everything FOR ALL TABLES');
app(q{SELECT guest_context.pause('a'); SELECT guest_context.skip('a', 0, 9999, 'for a test'); SELECT guest_context.seek('a', 'earliest')});
app(q{SELECT guest_context.discard(array_agg(id)) FROM guest_context.dead_letter WHERE changelog = 'a'});
is(app_fails(q{SELECT guest_context.drop_changelog('a'); SELECT guest_context.drop_entity('shop.c')}), 'it succeeds', 'under a publication of all tables changelogs and entities can be dropped');
is(sql(q{SELECT string_agg(changelog, ',') FROM guest_context.status}), 'b', 'and are gone');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
