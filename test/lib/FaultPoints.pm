# Arms the fault points of the tested build (src/common/fault_point.h).
#
#	use FaultPoints;
#	my @all = fault_points();			# of the source, frames too
#	fault_arm($node, 'kill', 'rows written');
#	my $pid = fault_hit($node);			# waits until a process has come past
package FaultPoints;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils qw(slurp_file);
use Time::HiRes qw(sleep time);

our @EXPORT = qw(fault_points fault_arm fault_disarm fault_hit);
my $src = abs_path(dirname(__FILE__) . '/../../src');

# Names of all points that the source has.
sub fault_points
{
	my %letter = slurp_file("$src/common/frame.h") =~ /^\tGC_FRAME_(\w+) = '(.)'/mg;
	my %points;
	for my $file (glob "$src/*.c $src/common/*.c $src/reader/*.c")
	{
		my $text = slurp_file($file);
		my ($from, $to) = $file =~ m{/reader/} ? ('reader', 'server') : ('server', 'reader');
		$points{$_} = 1 for $text =~ /\bGC_FAULT(?:_HALF)?\("([^"]+)"/g;
		for ($text =~ /\bgc_(?:frame_begin|partition_say)\([^,]+, GC_FRAME_(\w+)[,)]/g)
		{
			$points{"$from: frame $letter{$_} made"} = 1;
			$points{"$to: frame $letter{$_} taken"} = 1;
		}
	}
	# is not made in a buffer
	$points{"reader: frame $letter{STOP} taken"} = 1;
	return sort keys %points;
}

sub _file { my ($node) = @_; return $node->data_dir . '/guest_context.fault' }

sub fault_arm
{
	my ($node, $action, $name, $count) = @_;
	my $file = _file($node);
	fault_disarm($node);
	unlink "$file.hit";
	open my $out, '>', "$file.new" or die "$file.new: $!";
	print {$out} join(' ', $count // 1, $action, $name), "\n";
	close $out;
	rename "$file.new", $file or die "$file: $!";
}

# Nothing is armed any more, and nobody is held: who came past at the last moment goes on.
sub fault_disarm
{
	my ($node) = @_;
	unlink _file($node);
	my $pid = fault_hit($node, 0.1);
	kill 'CONT', $pid if $pid;
}

# The pid of who came past, or undef when nobody does for so many seconds.
sub fault_hit
{
	my ($node, $seconds) = @_;
	my $file = _file($node) . '.hit';
	my $until = time + ($seconds // 60);
	while (time < $until)
	{
		my $pid = -e $file ? slurp_file($file) : '';
		return $1 if $pid =~ /^(\d+)\n/;
		sleep 0.02;
	}
	return undef;
}

1;
