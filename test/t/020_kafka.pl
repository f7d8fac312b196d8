# The tests' own Kafka does what tests of changelogs rely on. No PostgreSQL here: what fails
# in this file is the tool, not the extension.
use strict;
use warnings;

use Kafka;
use Test::More;
use Time::HiRes qw(time);

my $begun = time;
sub lap { note sprintf '%.1f s: %s', time - $begun, $_[0] }

my $kafka = Kafka->start;
lap('a broker is up');
like($kafka->bootstrap, qr/^127\.0\.0\.1:\d+$/, 'a broker answers on a port of loopback');

# --- records, byte for byte
sub shown
{
	return join ' ', map {
		my $r = $_;
		"$r->{partition}/$r->{offset}:" . join('=', map { $r->{$_} // 'null' } qw(key value)) . (@{ $r->{headers} } ? "{@{$r->{headers}}}" : '')
	} @_;
}

$kafka->create_topic('orders', partitions => 2);
is_deeply([ sort keys %{ $kafka->leaders('orders') } ], [ 0, 1 ], 'a topic with two partitions');
my @where = $kafka->produce('orders', [
	[ 'k1', 'one', { source => 'crm', tag => 'x' }, 1, 1700000000123 ],
	[ 'k1', undef, undef, 1 ],
	[ undef, '', undef, 1 ],
	[ '', "a\nb\tc\0\xff", [ twice => '1', twice => '2' ], 1, 1600000000000 ] ]);
is_deeply(\@where, [ map { [ 1, $_ ] } 0 .. 3 ], 'where the records went');
my @records = $kafka->consume('orders');
is(shown(@records), "1/0:k1=one{source=crm tag=x} 1/1:k1=null 1/2:null= 1/3:=a\nb\tc\0\xff{twice=1 twice=2}",
	'nulls, empty texts, any bytes and repeated headers arrive');
is($records[0]{time}, 1700000000123, 'with the time they were given');
cmp_ok(abs($records[1]{time} / 1000 - time), '<', 60, 'or that of now');
is($kafka->high_watermark('orders', 1), 4, 'the high watermark');
is($kafka->high_watermark('orders', 0), 0, 'of an empty partition');
is($kafka->offset_for_time('orders', 1, 1650000000000), 0, 'the first record of a time');
is($kafka->offset_for_time('orders', 1, 4000000000000), undef, 'or none');

# --- what Java writes, and where it puts keys
$kafka->create_topic('java', partitions => 5);
$kafka->java_produce('java', [ (map { [ "key$_", "value $_", { by => 'java' } ] } 1 .. 20), [ 'gone', undef ] ], 'compression.type' => 'lz4');
my %java = map { ($_->{key} => $_) } $kafka->consume('java');
is(keys %java, 21, "Java's records arrive");
is("$java{key7}{value} @{$java{key7}{headers}}", 'value 7 by=java', 'with value and headers');
is($java{gone}{value}, undef, 'and a null value');
is(join(' ', map { $_->[0] } $kafka->produce('java', [ map { ["key$_", ''] } 1 .. 20 ])),
	join(' ', map { $java{"key$_"}{partition} } 1 .. 20), 'our producer puts keys where Java does');
like($kafka->tool('org.apache.kafka.tools.TopicCommand', '--list'), qr/^java$/m, "one of Kafka's own tools");
lap('Java has produced');

# --- topics change
$kafka->add_partitions('orders', 3);
is_deeply([ $kafka->produce('orders', [ [ 'k', 'v', undef, 2 ] ]) ], [ [ 2, 0 ] ], 'an added partition takes records');
is($kafka->delete_records('orders', 1, 3), 3, 'records are trimmed');
is($kafka->low_watermark('orders', 1), 3, 'and the low watermark says so');
is(scalar $kafka->consume('orders', partition => 1), 1, 'what is trimmed is gone');
$kafka->alter_config('orders', { 'max.message.bytes' => 1000 });
ok(!eval { $kafka->produce('orders', [ [ 'k', 'x' x 5000, undef, 0 ] ]); 1 }, 'a setting of a topic takes effect');
like($@, qr/producer: error record 0: .*too large/i, 'and the producer says what the broker said');
$kafka->alter_config('orders', { 'max.message.bytes' => undef });
is_deeply([ $kafka->produce('orders', [ [ 'k', 'x' x 5000, undef, 0 ] ]) ], [ [ 0, 0 ] ], 'until it is the default again');
$kafka->delete_topic('orders');
is($kafka->leaders('orders'), undef, 'a topic is deleted');
$kafka->create_topic('orders');
is($kafka->high_watermark('orders', 0), 0, 'and made again, empty');
ok(!eval { $kafka->create_topic('orders'); 1 }, 'a second one of the name is an error');
like($@, qr/TOPIC_ALREADY_EXISTS/, 'with a name');

# --- transactions
$kafka->transaction('commit', 'orders', [ [ 'a', 'kept' ] ]);
$kafka->transaction('abort', 'orders', [ [ 'b', 'dropped' ] ]);
is($kafka->high_watermark('orders', 0), 4, 'two records and two markers');
is(shown($kafka->consume('orders', committed => 1)), '0/0:a=kept', 'what is aborted is not seen');
is(shown($kafka->consume('orders')), '0/0:a=kept 0/2:b=dropped', 'but by those who read everything');
my $open = $kafka->transaction('open', 'orders', [ [ 'c', 'open' ] ]);
$kafka->produce('orders', [ [ 'd', 'after' ] ]);
is($kafka->last_stable_offset('orders', 0), 4, 'an open transaction holds the last stable offset');
is($kafka->high_watermark('orders', 0), 6, 'not the high watermark');
$open->produce('orders', [ [ 'e', 'more' ] ]);
$open->commit;
is($kafka->last_stable_offset('orders', 0), 8, 'until it commits');
is(shown($kafka->consume('orders', committed => 1, from => 4)), '0/4:c=open 0/5:d=after 0/6:e=more', 'then all are seen');
$open = $kafka->transaction('open', 'orders', [ [ 'f', 'left' ] ], id => 'mine');
$open->abandon;
is($kafka->last_stable_offset('orders', 0), 8, 'a dead producer leaves its transaction open');
$kafka->transaction('commit', 'orders', [ [ 'g', 'next' ] ], id => 'mine');
is(shown($kafka->consume('orders', committed => 1, from => 8)), '0/10:g=next', 'and its successor ends it');
lap('transactions');

# --- groups
is_deeply($kafka->group_offsets('readers'), {}, 'a group that is not there');
$kafka->kcat(undef, '-G', 'readers', '-X', 'auto.offset.reset=earliest', '-X', 'auto.commit.interval.ms=100', '-c', 3, '-q', 'java');
my $committed = $kafka->group_offsets('readers')->{java};
cmp_ok(scalar(grep { $_ > 0 } values %{ $committed // {} }), '>', 0, 'what a group has committed');
lap('a group has committed');

# --- a cluster: a replica that has missed something leads, and what it missed is gone
my @more = map { Kafka->start(join => $kafka) } 1 .. 2;
$kafka->create_topic('copied', replicas => [ [ 2, 3 ] ]);
$kafka->produce('copied', [ [ 'k', 'both' ] ]);
is(shown($more[1]->consume('copied')), '0/0:k=both', 'every broker knows the way');
$more[1]->kill9;
$kafka->produce('copied', [ [ 'k', 'one' ], [ 'k', 'two' ] ]);
is($kafka->high_watermark('copied', 0), 3, 'one replica goes on alone');
$more[0]->kill9;
$more[1]->restart;
$kafka->elect_leader('copied', 0, unclean => 1);
is($kafka->high_watermark('copied', 0), 1, 'the other one has never heard of that');
$kafka->produce('copied', [ [ 'k', 'three' ] ]);
is(shown($kafka->consume('copied')), '0/0:k=both 0/1:k=three', 'and gives its place to the next record');
$more[1]->stop;
lap('a cluster');

# --- the broker's life
my $address = $kafka->bootstrap;
my $end = $kafka->high_watermark('orders', 0);
$kafka->freeze;
is(eval { local $SIG{ALRM} = sub { die "no answer\n" }; alarm 1; $kafka->high_watermark('orders', 0) } // $@, "no answer\n", 'a frozen broker does not answer');
alarm 0;
$kafka->thaw;
is($kafka->high_watermark('orders', 0), $end, 'until it thaws');
$kafka->kill9;
ok(!$kafka->is_running, 'killed');
ok(!eval { $kafka->high_watermark('orders', 0); 1 }, 'and nobody answers');
$kafka->restart;
is($kafka->bootstrap, $address, 'it is back on its port');
is($kafka->high_watermark('orders', 0), $end, 'with its data');
is_deeply($kafka->group_offsets('readers')->{java}, $committed, 'and its groups');
$kafka->stop;
ok(!$kafka->is_running, 'stopped in good order');
lap('killed and back');

# --- TLS, passwords, access rules; a broker beside another
my $secure = Kafka->start(tls => 1, users => { alice => 'secret', bob => 'hush' });
my @tls = ('ssl.ca.location' => $secure->ca);
my @alice = ('sasl.username' => 'alice', 'sasl.password' => 'secret');
$secure->create_topic('private');
$secure->produce('private', [ [ 'k', 'PLAIN' ] ], listener => 'SASL_SSL', @tls, 'security.protocol' => 'SASL_SSL', 'sasl.mechanism' => 'PLAIN', @alice);
$secure->produce('private', [ [ 'k', 'TLS' ] ], listener => 'SSL', @tls, 'security.protocol' => 'SSL');
is(shown($secure->consume('private', listener => 'SASL_PLAINTEXT', 'security.protocol' => 'SASL_PLAINTEXT', 'sasl.mechanism' => 'PLAIN', @alice)),
	'0/0:k=PLAIN 0/1:k=TLS', 'in and out with TLS, SASL and both');

# What a writer is told; what a reader gets, or is told.
sub refusal
{
	my ($listener, @settings) = @_;
	return eval { $secure->produce('private', [ [ 'k', 'refused' ] ], listener => $listener, 'security.protocol' => $listener, @settings); 'welcome' } // $@;
}

sub told
{
	my ($listener, @settings) = @_;
	return eval { join ' ', map { $_->{value} } $secure->consume('private', listener => $listener, 'security.protocol' => $listener, wait => 5, @settings) }
	  // $@;
}
my @bob = ('sasl.mechanism' => 'PLAIN', 'sasl.username' => 'bob');
is(told('SASL_PLAINTEXT', @bob, 'sasl.password' => 'hush'), 'PLAIN TLS', 'another user');
like(refusal('SASL_PLAINTEXT', @bob, 'sasl.password' => 'wrong'), qr/authentication failed/i, 'a wrong password is refused');
like(refusal('SSL'), qr/certificate verify failed/i, 'a certificate that nobody trusts is refused');
$secure->grant('alice', topic => 'private', 'read');
like(told('SASL_PLAINTEXT', @bob, 'sasl.password' => 'hush'), qr/authorization failed/i, 'with rules, who is not in them is refused');
$secure->revoke('alice', topic => 'private');
is(told('SASL_PLAINTEXT', @bob, 'sasl.password' => 'hush'), 'PLAIN TLS', 'without them everybody is in');

# librdkafka before 2.6.1 repeats its part of the SCRAM nonce, which brokers from 4.0 on do
# not take any more (confluentinc/librdkafka#4895): PLAIN over TLS is the way there.
my ($library) = qx(kcat -V) =~ /librdkafka (\d+\.\d+\.\d+)/ or die 'kcat does not say its library';
my $scram = version->parse($library) >= version->parse('2.6.1') ? qr/^welcome$/ : qr/invalid credentials/;
for my $mechanism ('SCRAM-SHA-256', 'SCRAM-SHA-512')
{
	like(refusal('SASL_PLAINTEXT', 'sasl.mechanism' => $mechanism, @alice), $scram, "$mechanism with librdkafka $library");
}
lap('TLS and SASL');
$secure->stop;

done_testing();
