# What must hold after any fault: records to try it with, and a checker of all that a changelog has made of them.
#
#	use Checker;
#	my $checker = Checker->new($kafka, $node, 'shop.items', 'load');	# entity with (ref, n, modified_at), topic
#	$kafka->produce('load', $checker->records(50));
#	$checker->settle('name');			# waits until all is read, then checks a, b, d
#	$checker->check_log(qr/halts that were injected/, qr/errors that were expected/);	# e, f
#
# (a) each record below the stored offset is a row, a dead letter or in a gap, once, and nothing else is;
# (b) the view equals a merge of all records, in Perl; (d) stored offsets only grow, and the ledger has no hole;
# (e) every halt was injected; (f) the server's log has no other error.
#
# Records tell by a header whether they must become a dead letter, so nothing here knows how they are decoded.
package Checker;

use strict;
use warnings;

use POSIX qw(strftime);
use Test::More;
use Time::HiRes qw(sleep time);

my $serial = 0;

sub new
{
	my ($class, $kafka, $node, $entity, $topic, %option) = @_;
	return bless { kafka => $kafka, node => $node, entity => $entity, topic => $topic, changelog => "$entity/$topic",
		partitions => $option{partitions} // 2, keys => $option{keys} // 60, reads => 1, seen => {}, lost => [],
		log_at => -s $node->logfile }, $class;
}

# All times of versions in this form, so that texts compare as times do.
sub _iso { my ($ms) = @_; return strftime('%Y-%m-%dT%H:%M:%S', gmtime int $ms / 1000) . sprintf '.%03dZ', $ms % 1000 }

# So many records: new, late and equal versions, tombstones, duplicates, some in another partition than their key's, and
# one in twelve, and at least one, that cannot be applied.
sub records
{
	my ($self, $count) = @_;
	my (@records, $last);
	my $surely = 1 + int rand $count;
	for my $i (1 .. $count)
	{
		$serial++;
		my $number = int rand $self->{keys};
		my $partition = rand() < 0.05 ? int rand $self->{partitions} : $number % $self->{partitions};
		my $ms = int(time * 1000) - (rand() < 0.3 ? int rand 3_600_000 : 0);
		$ms -= $ms % 1000 if rand() < 0.3;
		my $key = "k$number";
		my $value = sprintf '{"ref":"%s","n":%d,"modifiedAt":"%s"}', $key, $serial, _iso($ms);
		my $kind = $i == $surely ? 0 : rand;
		if ($kind < 0.08)
		{
			my @bad = ([ $key, 'no json' ], [ $key, $value =~ s/"n":\d+/"n":"x$serial"/r ], [ $key, $value =~ s/"modifiedAt"/"changed"/r ],
				[ $key, $value =~ s/"modifiedAt":"\d+/"modifiedAt":"2924/r ], [ undef, undef ]);
			my $bad = $bad[ rand @bad ];
			push @records, [ @$bad, { dead => 'yes' }, $partition ];
		}
		elsif ($kind < 0.2) { push @records, [ $key, undef, {}, $partition, $ms ] }
		elsif ($kind < 0.25 && $last) { push @records, $last }
		else { push @records, $last = [ $key, $value, {}, $partition ] }
	}
	return \@records;
}

sub _query { my ($self, $sql) = @_; return $self->{node}->safe_psql('postgres', $sql) }
sub _lines { my ($self, $sql) = @_; return map { [ split /\|/ ] } split /\n/, $self->_query($sql) }

# Stored offsets by partition; also looks whether one has gone back.
sub look
{
	my ($self) = @_;
	my %stored;
	for ($self->_lines(qq{SELECT p.generation, p.partition, p.to_offset FROM guest_context._position p JOIN guest_context._changelog c USING (changelog_id) WHERE c.name = '$self->{changelog}'}))
	{
		my ($generation, $partition, $offset) = @$_;
		my $before = $self->{seen}{"$generation/$partition"} // 0;
		push @{ $self->{lost} }, "generation $generation partition $partition: $offset after $before" if $offset < $before;
		$self->{seen}{"$generation/$partition"} = $stored{$partition} = $offset;
	}
	return \%stored;
}

# Waits until everything that can be read is, then checks.
sub settle
{
	my ($self, $name, $seconds) = @_;
	my $until = time + ($seconds // 90);
	my %ends = map { ($_ => $self->{kafka}->last_stable_offset($self->{topic}, $_)) } 0 .. $self->{partitions} - 1;
	for (;;)
	{
		my $stored = eval { $self->look } // {};
		last unless grep { ($stored->{$_} // 0) < $ends{$_} } keys %ends;
		if (time > $until)
		{
			fail("$name: everything is read");
			diag('read up to ', explain($stored), 'of ', explain(\%ends), eval { $self->_query('SELECT * FROM guest_context.status') } // $@);
			return 0;
		}
		sleep 0.1;
	}
	return $self->check($name, \%ends);
}

# The merge: what each key has, by (version, partition, offset), as long as there is one source.
sub _merge
{
	my ($records) = @_;
	my (%place, %value);
	for my $record (@$records)
	{
		my ($ref, $n, $version) = ($record->{key}, undef, _iso($record->{time}));
		if (defined $record->{value})
		{
			($ref, $n, $version) = $record->{value} =~ /^\{"ref":"(\w+)","n":(\d+),"modifiedAt":"(.*)"\}$/ or die "not a record of ours: $record->{value}";
		}
		my $place = sprintf '%s %03d %012d', $version, @$record{qw(partition offset)};
		next if ($place{$ref} // '') ge $place;
		$place{$ref} = $place;
		$value{$ref} = $n;
	}
	return join ' ', map { "$_=$value{$_}" } grep { defined $value{$_} } sort keys %value;
}

# What was found wrong, as texts.
sub wrong
{
	my ($self, $ends) = @_;
	my @wrong;
	my $changelog = "changelog_id = (SELECT changelog_id FROM guest_context._changelog WHERE name = '$self->{changelog}')";
	my $stored = $self->look;
	my (%rows, %dead, %gap, @applied);

	$rows{"$_->[0]:$_->[1]"} = $_->[2] for $self->_lines("SELECT gc_partition, gc_offset, count(*) FROM $self->{entity}_speed GROUP BY 1, 2");
	$dead{"$_->[0]:$_->[1]"}++ for $self->_lines("SELECT partition, record_offset FROM guest_context._dead_letter WHERE $changelog");
	for ($self->_lines("SELECT partition, from_offset, to_offset FROM guest_context._gap WHERE $changelog"))
	{
		my ($partition, $from, $to) = @$_;
		$gap{"$partition:$_"} = 1 for $from .. $to - 1;
	}
	for my $record ($self->{kafka}->consume($self->{topic}, committed => 1))
	{
		my $at = "$record->{partition}:$record->{offset}";
		my ($rows, $dead, $gap) = (delete $rows{$at} // 0, delete $dead{$at} // 0, delete $gap{$at} // 0);
		my $bad = grep { $_ eq 'dead=yes' } @{ $record->{headers} };

		if ($record->{offset} >= ($stored->{ $record->{partition} } // 0))
		{
			push @wrong, "$at is behind the stored offset, and there: $rows rows, $dead dead letters" if $rows + $dead;
			push @wrong, "$at has not been read" if $record->{offset} < $ends->{ $record->{partition} };
			next;
		}
		if ($gap) { push @wrong, "$at is in a gap, and there" if $rows + $dead; next }
		push @wrong, "$at is $rows rows and $dead dead letters, " . ($bad ? 'and is bad' : 'and is good')
		  unless $bad ? $dead == 1 && $rows == 0 : $dead == 0 && $rows >= 1 && $rows <= $self->{reads};
		push @applied, $record unless $bad;
	}
	push @wrong, map { "$_ is no record, and there" } sort keys %rows, sort keys %dead;
	push @wrong, @{ $self->{lost} };
	push @wrong, map { "the ledger has a hole or an overlap at @$_" } $self->_lines(qq{SELECT generation, partition, from_offset FROM
		(SELECT *, lag(to_offset, 1, CASE WHEN from_offset = -1 THEN -1 END) OVER (PARTITION BY generation, partition ORDER BY from_offset) AS before
		 FROM guest_context._ledger WHERE $changelog) l WHERE from_offset IS DISTINCT FROM before});
	my $view = join ' ', map { "$_->[0]=$_->[1]" } sort { $a->[0] cmp $b->[0] } $self->_lines("SELECT ref, n FROM $self->{entity}");
	my $merge = _merge(\@applied);
	if ($view ne $merge)
	{
		my %is = map { ($_ => 1) } split / /, $view;
		my %should = map { ($_ => 1) } split / /, $merge;
		push @wrong, "the view has @{[ grep { !$should{$_} } sort keys %is ]} instead of @{[ grep { !$is{$_} } sort keys %should ]}";
	}
	$self->{records} = @applied;
	return @wrong;
}

# At any moment: the view is the merge of the rows that there are, whatever the active dataset is, as long as no leaf of
# records has been dropped. In one statement, so that both are of one snapshot.
sub wrong_now
{
	my ($self) = @_;
	return map { "$_->[0] is $_->[1], though it is $_->[2]" } $self->_lines(qq{
		WITH merge AS (SELECT ref, n FROM (SELECT DISTINCT ON (ref) ref, n, gc_deleted FROM $self->{entity}_speed
			ORDER BY ref, modified_at DESC, gc_source DESC, gc_partition DESC, gc_offset DESC) m WHERE NOT gc_deleted)
		SELECT coalesce(v.ref, m.ref), coalesce(v.n::text, 'not there'), coalesce(m.n::text, 'not there')
		FROM $self->{entity} v FULL JOIN merge m ON m.ref = v.ref WHERE v.n IS DISTINCT FROM m.n LIMIT 5});
}

sub check
{
	my ($self, $name, $ends) = @_;
	my @wrong = $self->wrong($ends // {});
	$#wrong = 19 if @wrong > 20;
	return ok(!@wrong, $name) || !diag(join "\n", @wrong);
}

# Every halt, and every error, in the server's log since the checker was made.
sub check_log
{
	my ($self, $halts, $errors) = @_;
	my $log = PostgreSQL::Test::Utils::slurp_file($self->{node}->logfile, $self->{log_at});
	my @halts = $log =~ /(changelog ".*" has halted: .*)/g;
	my @errors = $log =~ /^\S+ \S+ \S+ \[\d+\].* ((?:ERROR|FATAL|PANIC):  .*)/mg;
	is(join("\n", grep { $_ !~ $halts } @halts), '', 'no halt but those that were injected');
	is(join("\n", grep { $_ !~ $errors } @errors), '', 'no error in the server\'s log but those that were expected');
	is(join("\n", $log =~ /(TRAP: .*|.*terminated by signal (?!9\b).*)/g), '', 'and no crash of its own');
	return;
}

1;
