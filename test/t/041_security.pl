# B13, X11: TLS and logins of ingest workers at a real broker, with right and wrong secrets: what is wrong is told by
# the status, nothing panics, and what is mended goes on by itself; access rules that are given and taken while it runs.
use strict;
use warnings;

use Changelogs qw(:DEFAULT :items);
use Kafka;
use Test::More;
use Time::HiRes qw(sleep time);

# The last version of Kafka at which every librdkafka can log in by SCRAM: up to 2.6.0 it repeats its part of the nonce,
# which Kafka 4 does not take any more.
my $kafka = Kafka->start(version => '3.9.1', tls => 1, users => { alice => 'secret', bob => 'hush' });
my $node = changelogs_node($kafka);
items_entity();
my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

my $ca = slurp_pem($kafka->ca);
my $other_ca = do
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=somebody -keyout $dir/key -out $dir/pem 2>$dir/log") == 0
	  or die 'openssl failed';
	slurp_pem("$dir/pem");
};

sub slurp_pem { my ($file) = @_; open my $in, '<', $file or die "$file: $!"; local $/; return scalar <$in> }

# A server of a listener, and a changelog of a topic of its own there.
sub secured
{
	my ($name, $listener, $options, $mapping) = @_;
	my $bootstrap = $kafka->bootstrap($listener);
	sql(qq{CREATE SERVER "$name" FOREIGN DATA WRAPPER guest_context OPTIONS ("bootstrap.servers" '$bootstrap', "security.protocol" '$listener'}
		  . join('', map { qq{, "$_" '$options->{$_}'} } sort keys %$options) . qq{);
		GRANT USAGE ON FOREIGN SERVER "$name" TO app}
		  . ($mapping ? qq{; CREATE USER MAPPING FOR app SERVER "$name" OPTIONS (} . join(', ', map { qq{"$_" '$mapping->{$_}'} } sort keys %$mapping) . ')' : ''));
	$kafka->create_topic($name);
	app("SELECT guest_context.create_changelog('shop.items', '$name', '$name')");
	$kafka->produce($name, [ item($name, 1) ]);
}

sub goes_on
{
	my ($name, $n, $test) = @_;
	$kafka->produce($name, [ item($name, $n) ]);
	shows($name, $n, $test, 90);
	return becomes(status($name), 'running', "$name: running");
}
my %alice = ('sasl.username' => 'alice', 'sasl.password' => 'secret');

# --- TLS

secured('tls', 'SSL', { 'ssl.ca.pem' => $ca });
goes_on('tls', 2, 'TLS with the right authority');
secured('strange', 'SSL', { 'ssl.ca.pem' => $other_ca });
happens(status('strange'), qr/^waiting no secure connection to the server: .*certificate verify failed/, 'with the wrong one: waiting, and why', 60);
sql(qq{ALTER SERVER strange OPTIONS (SET "ssl.ca.pem" '$ca')});
goes_on('strange', 2, 'with the right one it goes on');
secured('hung-up', 'SASL_SSL', { 'ssl.ca.pem' => $ca, 'sasl.mechanism' => 'PLAIN' }, \%alice);
goes_on('hung-up', 2, 'TLS and PLAIN');
lap('TLS');

# --- logins, right and wrong

for my $mechanism ('PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512')
{
	my $name = lc $mechanism;
	secured($name, 'SASL_SSL', { 'ssl.ca.pem' => $ca, 'sasl.mechanism' => $mechanism }, \%alice);
	goes_on($name, 2, "$mechanism over TLS");
	secured("$name-wrong", 'SASL_SSL', { 'ssl.ca.pem' => $ca, 'sasl.mechanism' => $mechanism }, { %alice, 'sasl.password' => 'guess-4711' });
	happens(status("$name-wrong"), qr/^waiting the server refuses the login: .*[Aa]uthentication failed/, "$mechanism with a wrong password: waiting, and why", 60);
	unlike(sql('SELECT string_agg(message, E\'\n\') FROM guest_context.status'), qr/guess-4711/, 'without the secret');
	sql(qq{ALTER USER MAPPING FOR app SERVER "$name-wrong" OPTIONS (SET "sasl.password" 'secret')});
	goes_on("$name-wrong", 2, "$mechanism with the right one it goes on, without a word");
	lap($mechanism);
}

# --- access rules

goes_on('plain', 3, 'everybody may read');
$kafka->grant('bob', topic => 'plain', 'read');
happens(status('plain'), qr/^waiting .*[Aa]uthorization failed/, 'who may not read any more waits, and says why', 90);
$kafka->grant('alice', topic => 'plain', 'read');
$kafka->produce('plain', [ item('plain', 4) ]);
shows('plain', 4, 'and goes on when he may', 90);
becomes(status('plain'), 'running', 'running', 60);
lap('access rules');

# --- a password in a file, which changes (the first one is wrong)

my $file = PostgreSQL::Test::Utils::tempdir() . '/password';
PostgreSQL::Test::Utils::append_to_file($file, "guess-4711\n");
secured('filed', 'SASL_SSL', { 'ssl.ca.pem' => $ca, 'sasl.mechanism' => 'SCRAM-SHA-512' }, { 'sasl.username' => 'alice', password_file => $file });
happens(status('filed'), qr/^waiting the server refuses the login: /, 'a file with a wrong password: waiting', 60);
open my $out, '>', $file or die "$file: $!";
print {$out} "secret\n";
close $out;
goes_on('filed', 2, 'with the right one in it: it goes on by itself');
lap('file');
is(sql(q{SELECT count(*) FROM (SELECT gc_source, gc_partition, gc_offset FROM shop.items_speed GROUP BY 1, 2, 3 HAVING count(*) > 1) d}), '0', 'every record once');
my @log = grep { /^\d{4}-/ && !/041_security\.pl/ } split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile);
is(join("\n", grep { /guess-4711|PANIC|terminated by signal/ } @log), '', 'what the workers log has no password, and nothing crashed');
$node->stop;
done_testing();
