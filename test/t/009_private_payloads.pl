# X26: what is in a payload does not get into the server's log, whatever is wrong with
# it. The client is told; the log says which record, which column, which constraint.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nlog_error_verbosity = verbose\n");
$node->start;
$node->safe_psql('postgres', q{
	CREATE ROLE shop_owner LOGIN;
	CREATE EXTENSION guest_context;
	CREATE SCHEMA shop AUTHORIZATION shop_owner;
	SET SESSION AUTHORIZATION shop_owner;
	CREATE DOMAIN shop.code AS text CHECK (value ~ '^[a-z]*$');
	CREATE TYPE shop.mood AS ENUM ('good');
	CREATE TABLE shop.shape (ref text, name text, n integer CONSTRAINT small CHECK (n < 10), must text NOT NULL DEFAULT '',
		code shop.code, mood shop.mood, short varchar(3), doc jsonb, day date,
		ratio numeric CONSTRAINT inverse CHECK (1 / ratio > 0), modified_at timestamptz);
	SELECT guest_context.create_entity('shop.guests', 'shop.shape');
	CREATE FUNCTION shop.complain() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.name = 'warn' THEN RAISE WARNING 'a warning of the trigger'; END IF;
		IF NEW.name = 'raise' THEN RAISE 'no such guest' USING HINT = 'ask again'; END IF;
		IF NEW.name = 'data' THEN RAISE 'no such name' USING ERRCODE = '22023'; END IF;
		IF NEW.name = 'wait' THEN PERFORM pg_catalog.pg_sleep(60); END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER complain BEFORE INSERT ON shop.guests_versions FOR EACH ROW EXECUTE FUNCTION shop.complain();
});

# Applies good records and a bad one, which is the third; what the client and what the log says.
sub refused
{
	my ($fields, $bad) = @_;
	my $at = '"modified_at": "2026-01-01T00:00:00Z"';
	my $record = $bad || qq({"ref": "SECRET", $at, $fields});
	my $logged = -s $node->logfile;
	my (undef, undef, $client) = $node->psql('postgres',
		qq(SELECT guest_context.apply('shop.guests', '[{"ref": "a", $at}, {"ref": "b", $at}, $record]');),
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	my $log = slurp_file($node->logfile, $logged);
	# what the log says of other things than this statement
	$log = join '', grep { /\[\d+\].* 009_|^\t|psql|ERROR|DETAIL|CONTEXT|STATEMENT|HINT|WARNING|FATAL/ } split /^/, $log;
	return ($client, $log);
}

my $third = qr{CONTEXT:  (?:PL/pgSQL function .*\n\s*)?applying record 3 of the payload to entity "shop.guests"};
my $hidden = qr/DETAIL:  It may quote the record, so only the client is told\./;
for my $case (
	# name, fields of the record, SQLSTATE and message for both, what only the client is told
	[ 'CHECK', '"name": "SECRET", "n": 77', qr/23514: new row for relation "guests_speed_p\d+" violates check constraint "small"/ ],
	[ 'NOT NULL', '"name": "SECRET", "must": null', qr/23514: new row for relation "guests_speed_p\d+" violates check constraint "\w+"/ ],
	[ 'domain', '"code": "SECRET"', qr/23514: value for domain shop.code violates check constraint "code_check"/ ],
	[ 'number', '"n": "SECRET"', qr/22P02: cannot store a record of entity "shop.guests": its value for column "n" is not valid/,
		qr/DETAIL:  invalid input syntax for type integer: "SECRET"/ ],
	[ 'range', '"name": "SECRET", "n": 7777777777', qr/22003: .* its value for column "n" is not valid/,
		qr/DETAIL:  value "7777777777" is out of range for type integer/ ],
	[ 'enum', '"mood": "SECRET"', qr/22P02: .* its value for column "mood" is not valid/,
		qr/DETAIL:  invalid input value for enum shop.mood: "SECRET"/ ],
	[ 'length', '"short": "SECRET"', qr/22001: .* its value for column "short" is not valid/,
		qr/DETAIL:  value too long for type character varying\(3\)/ ],
	[ 'expression', '"name": "SECRET", "ratio": 0', qr/22012: cannot store a record of entity "shop.guests"\n/,
		qr/DETAIL:  division by zero/ ],
	[ 'time', '"day": "SECRET"', qr/22007: field "\$.day" is not a time/, qr/DETAIL:  Column "day" is to take "SECRET"/ ],
	[ 'trigger', '"name": "raise", "code": "secret"', qr/P0001: no such guest\n(?:.*\n)*?.*HINT:  ask again/ ],
	[ "trigger's data error", '"name": "data", "code": "secret"', qr/22023: cannot store a record of entity "shop.guests"\n/,
		qr/DETAIL:  no such name/ ])
{
	my ($name, $fields, $both, $client_only) = @$case;
	my ($client, $log) = refused($fields);

	like($client, $both, "$name: the client is told");
	like($client, $client_only, "$name: also what") if $client_only;
	like($client, $third, "$name: and of which record");
	unlike($client, qr/COPY|Failing row/, "$name: nothing of how it was written");
	like($log, $both, "$name: the log says it");
	like($log, $hidden, "$name: and that there is more") if $client_only;
	like($log, $third, "$name: and of which record");
	unlike($log, qr/SECRET|secret|7777|COPY|STATEMENT/, "$name: nothing of the record");
}

# names for programs
my ($client) = refused('"n": 77');
like($client, qr/SCHEMA NAME:  shop\nTABLE NAME:  guests_speed_p\d+\nCONSTRAINT NAME:  small/, 'the constraint has its name');
($client) = refused('"n": "SECRET"');
like($client, qr/SCHEMA NAME:  shop\nTABLE NAME:  guests_speed_p\d+\nCOLUMN NAME:  n/, 'the column has its name');

# where a trigger was is kept
($client) = refused('"name": "raise"');
like($client, qr/CONTEXT:  PL\/pgSQL function shop.complain\(\) line \d+ at RAISE\napplying record 3/, 'the place in a trigger');

# not JSON is found before the record is; no version
my $log;
($client, $log) = refused('', '{"ref": "SECRET"}');
like($client, qr/23502: record has no version/, 'no version: the client is told');
unlike($log, qr/SECRET|STATEMENT/, 'no version: nothing of the record');

# what is no error: a warning, and the end of the session
my ($client_warned, $log_warned) = refused('"name": "warn", "code": "secret"');
like($client_warned, qr/WARNING:  01000: a warning of the trigger/, 'a warning comes through');
unlike($log_warned, qr/secret|STATEMENT/, 'a warning: nothing of the record');

my $logged = -s $node->logfile;
my $waiting = $node->background_psql('postgres', on_error_stop => 0);
$waiting->query_until(qr/asked/,
	qq(\\echo asked\nSELECT guest_context.apply('shop.guests', '{"ref": "SECRET", "name": "wait", "modified_at": "2026-01-01T00:00:00Z"}');\n));
$node->poll_query_until('postgres', q{SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
$node->wait_for_log(qr/terminating connection due to administrator command/, $logged);
unlike(slurp_file($node->logfile, $logged), qr/SECRET/, 'the end of a session: nothing of the record');
eval { $waiting->{run}->finish };

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|[] ]XX[0-9A-Z]{3} /, 'nothing unexpected in the log');
$node->stop;
done_testing();
